"""How fast curation is, and how much memory it takes, on long traces.

    python bench/curate_speed.py --problems 20000 --folder /tmp/curate-speed

Every problem is different, asks for a sum, and has one trace of about 16 kB (5,000 tokens) made of
real thought text, with a correct box at its end; one in fifty is cut.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.config import ChainsSource, Curate, Params, Rewards, TableSource, TinyBase
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer

REAL = Path(__file__).parents[2] / "shared/data/traces/r1distill_math_thoughtanchors.jsonl"
CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def thoughts() -> list[str]:
    """Sentences of real traces."""
    rows = [json.loads(line) for line in REAL.read_text().splitlines()]
    return [s for row in rows for s in row["generation"].split("\n\n") if "</think>" not in s]


def build(path: Path, count: int, characters: int) -> None:
    """Write the input, a thousand problems a row group."""
    sentences, rng = thoughts(), random.Random(1)
    schema = pa.schema([(n, pa.string()) for n in ("problem", "answer", "trace")])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, count, 1000):
            rows = []
            for i in range(start, min(start + 1000, count)):
                a, b = 1000 + i, rng.randrange(1000, 9999)
                words = " ".join(rng.choice(sentences).split()[:30])
                parts: list[str] = []
                while sum(map(len, parts)) < characters:
                    parts.append(rng.choice(sentences))
                tail = "" if i % 50 == 7 else f"\n</think>\nThe sum is \\boxed{{{a + b}}}."
                trace = "<think>\n" + "\n\n".join(parts).replace("<think>", "") + tail
                problem = f"{words} After all this, what is the sum of ${a}$ and ${b}$?"
                rows.append({"problem": problem, "answer": str(a + b), "trace": trace})
            writer.write_table(pa.Table.from_pylist(rows, schema))


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 16,000 entries trained on the real traces."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=16_000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    core.train_from_iterator(thoughts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", chat_template=CHAT
    )


def main() -> None:
    """Build (once) and curate; print rows/s, parts and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=20_000)
    parser.add_argument("--characters", type=int, default=16_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/curate-speed"))
    parser.add_argument("--build", action="store_true", help="only write the input")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    source = (options.folder / f"in-{options.problems}-{options.characters}.parquet").absolute()
    if options.build:
        build(source, options.problems, options.characters)
        return
    if not source.exists():  # in a process of its own: its memory is not curation's
        subprocess.run([sys.executable, *sys.argv, "--build"], check=True)
    os.chdir(options.folder)
    params = Params.model_construct(
        seed=1,
        curate=Curate(
            sources={"big": TableSource(kind="table", path=str(source))},
            benchmarks={"b": ChainsSource(kind="chains", count=50, min_steps=3, max_steps=5)},
            max_trace_tokens=8192,
        ),
        base=TinyBase(
            kind="tiny",
            hidden_size=16,
            layers=1,
            heads=1,
            steps=1,
            batch_size=1,
            learning_rate=1e-3,
            slip_probability=0.5,
        ),
        rewards=Rewards(),
    )
    coder = tokenizer()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, busy = time.monotonic(), os.times()
    curate(params, Observer("curate"), Path("artifacts/data"), coder)
    wall = time.monotonic() - start
    used = sum(os.times()[:4]) - sum(busy[:4])
    account = json.loads(Path("artifacts/data/curation.json").read_text())
    timing = json.loads(Path("artifacts/timings/curate.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    tokens = account["traces"]["tokens"]
    print(json.dumps(timing["parts"]))
    print(
        f"{options.problems} problems, {tokens / options.problems:.0f} tokens a trace: "
        f"{wall:.1f} s, {options.problems / wall:.0f} rows/s, {tokens / wall:,.0f} tokens/s, "
        f"{used:.0f} s of CPU ({options.problems / used:.0f} rows per CPU second), "
        f"peak {peak:.0f} MB ({before:.0f} MB before), largest worker {worker:.0f} MB, "
        f"load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
