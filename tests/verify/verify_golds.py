"""The golds of the shared data, and a deterministic sample of pairs by kind of property."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hapo_core.verify.extract import joined_boxes
from hapo_core.verify.properties import embed, mutate, respell

DATA = Path(os.environ.get("HAPO_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def _jsonl(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def golds() -> Iterator[tuple[str, str]]:
    """(source, gold) of every row with an answer, about 25,000."""
    import pyarrow.parquet as parquet

    for row in parquet.read_table(DATA / "train/bigmath_5k.parquet").to_pylist():
        yield "bigmath", str(row["reward_model"]["ground_truth"])
    for row in parquet.read_table(DATA / "train/math_train.parquet").to_pylist():
        yield "math_train", str(row["answer"])
    for name in ("train/gsm8k_train", "bench/gsm8k_test"):
        for line in _jsonl(f"{name}.jsonl"):
            yield name, str(line["answer"]).rpartition("####")[2].strip()
    for line in _jsonl("train/numina_cot_2k.jsonl"):
        answer = joined_boxes(str(line["response"]))
        if answer:
            yield "numina", answer
    for name in ("aime24", "aime25", "amc23", "math500"):
        for line in _jsonl(f"bench/{name}.jsonl"):
            yield name, re.sub(r"\.0$", "", str(line["answer"]))
    for line in _jsonl("bench/minerva_math.jsonl"):
        answer = joined_boxes(str(line["solution"]))
        if answer:
            yield "minerva", answer
    for line in _jsonl("bench/olympiadbench.jsonl"):
        final = line["final_answer"]
        assert isinstance(final, list)
        yield "olympiadbench", str(final[0])


def sample(limit: int) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Up to `limit` pairs of each ("mutation" | "respelling", kind), chosen by a hash of the pair.

    Only distinct golds count: a number that is the gold of a hundred problems is tried once.
    """
    found: dict[tuple[str, str], dict[tuple[str, str], None]] = {}

    def add(group: str, kind: str, gold: str, answer: str) -> None:
        found.setdefault((group, kind), {})[gold, answer] = None

    for gold in dict.fromkeys(gold for _, gold in golds()):
        if not gold.strip() or len(gold) > 300:
            continue
        for kind, text in mutate(gold):
            add("mutation", kind, gold, text)
        for kind, statement, text in embed(gold):
            add("mutation", kind, statement, text)
        for kind, text in respell(gold):
            add("respelling", kind, gold, text)
    return {key: sorted(pairs, key=_place)[:limit] for key, pairs in sorted(found.items())}


def _place(pair: tuple[str, str]) -> bytes:
    return hashlib.sha256("\x1f".join(pair).encode()).digest()
