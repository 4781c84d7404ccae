"""Samples in the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from pipeline.samples.select import Sample


def as_text(samples: Sequence[Sample], width: int = 100) -> str:
    """Every sample as a block: head, problem (once for a run of the same), response, verdict."""
    blocks, before = [], None
    for sample in samples:
        lines = [_head(sample)]
        if (sample.where, sample.prompt_id) != before:
            lines.append(_field("problem", sample.problem, width))
            if sample.group:
                lines.append(f"  gate      {sample.group}")
        before = (sample.where, sample.prompt_id)
        lines.append(_field("response", sample.text or "(an empty response)", width))
        answer = "none found" if sample.extracted is None else sample.extracted
        lines.append(f"  answer    {answer}   (gold {sample.gold})")
        rule = f" by {sample.rule}" if sample.rule else ""
        lines.append(f"  verdict   {sample.verdict}{rule}")
        if sample.note:
            lines.append(f"  teacher   {sample.note}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _head(sample: Sample) -> str:
    advantage = "" if sample.advantage is None else f", advantage {sample.advantage:+.3f}"
    kind = "" if sample.kind == "policy" else f" ({sample.kind})"
    return (
        f"{sample.where}, prompt {sample.prompt_id}, sample {sample.sample}{kind}: "
        f"{sample.tokens} tokens{advantage}"
    )


def _field(name: str, text: str, width: int) -> str:
    inside = " " * 12
    lines = [
        part
        for line in (text.splitlines() or [""])
        for part in (textwrap.wrap(line, width - 12) or [""])
    ]
    return f"  {name:<9} " + f"\n{inside}".join(lines)
