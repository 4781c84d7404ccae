"""`python -m toy_rank FOLDER WHAT...`, one word a rank: it trains nothing (test_launch.py)."""

import os
import signal
import sys
import time
from pathlib import Path

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
what = sys.argv[2 + rank]
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "HAPO_STORE")
(folder / f".{rank}").write_text(" ".join([str(os.getpid()), *(os.environ[n] for n in names)]))
(folder / f".{rank}").rename(folder / f"rank-{rank}")
if what.isdecimal():
    while len(list(folder.glob("rank-*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.02)
    sys.exit(int(what))
if what == "stops":
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(60)
