"""`python -m hanging_rank WHAT...`, one word a rank: one of them works for long, or hangs."""

import sys
import time

from hapo_core.distributed import join
from hapo_core.heartbeat import beat

ranks = join("cpu")
what = sys.argv[1 + ranks.index]
ranks.barrier()
if what == "works":  # longer than a rank may do nothing, as one that waits for its servers
    for _ in range(40):
        time.sleep(0.1)
        beat()
if what == "hangs":
    while True:
        time.sleep(0.2)
found = ranks.all_gather({ranks.index: ("x", 0.5)})
assert found == [{k: ("x", 0.5)} for k in range(ranks.count)]
ranks.close()
