"""`hapo segments`: how many segments a run has, and how many rounds each.

Edits `segments` and `targets.final.policy` of params.yaml in step. Comments, order and the quotes
of the keys stay (DVC drops a stage with an unquoted number as its key without a word).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import CommentMark
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.tokens import CommentToken

from hapo_core.errors import ConfigError
from pipeline.artifacts import MANIFEST, atomic_write_text
from pipeline.artifacts.places import POLICIES
from pipeline.config import PARAMS, load_params, parse_params
from pipeline.config.yaml import round_trip

MOST = 1000
"""Segments: reading a graph of so many stages takes DVC minutes."""


def set_segments(
    count: int, rounds: int | None = None, *, force: bool = False, root: Path = Path()
) -> list[str]:
    """Make params.yaml hold `count` segments, named "1" to "count".

    Args:
        count: of segments, at least 1.
        rounds: of each segment that is not finished; None leaves the present ones as they are
            and gives new ones the rounds of the last.
        force: also change or drop finished segments (their stages then run again, or vanish).
        root: the project.

    Returns:
        What was done, in words.

    Raises:
        ConfigError: params.yaml is not valid before or after, or a finished segment would change.
    """
    if count < 1 or (rounds is not None and rounds < 1):
        raise ConfigError("segments and rounds are counted from 1", where="hapo segments")
    if count > MOST:
        raise ConfigError(
            f"{count:,} segments: a stage of DVC's graph each, and at most {MOST:,} of them",
            where="hapo segments",
            remedy="fewer segments of more rounds (--rounds)",
        )
    path = root / PARAMS
    load_params(path)
    yaml = round_trip()
    text = path.read_text(encoding="utf-8")
    whole = yaml.load(text)
    segments: CommentedMap = whole["segments"]
    dropped = list(segments)[count:]
    finished = [name for name in segments if _finished(name, root)]
    _refuse([name for name in dropped if name in finished], "dropped", force)
    done = [f"dropped segment {name}" for name in dropped]
    for name in reversed(dropped):
        _drop_last(segments, name)
    if rounds is not None:
        changed = [n for n in segments if segments[n]["rounds"] != rounds]
        kept = [n for n in changed if n in finished and not force]
        if kept:
            done.append(f"kept finished segment(s) {', '.join(kept)} (--force changes them)")
        for name in changed:
            if name not in kept:
                segments[name]["rounds"] = rounds
                done.append(f"segment {name} has {rounds} rounds")
    for _ in range(count - len(segments)):
        name = _append(segments, rounds)
        done.append(f"added segment {name} with {segments[name]['rounds']} rounds")
    _set_final(whole, list(segments)[-1])
    parse_params(_plain(whole), where=str(path))
    if done:
        sink = io.StringIO()
        yaml.dump(whole, sink)
        atomic_write_text(path, _splice(text, sink.getvalue()))
    return done


def _splice(old: str, new: str) -> str:
    """`old` with the two sections of `new`: ruamel would re-wrap lines of all others."""
    for section in ("segments", "targets"):
        start, end = _lines_of(old, section)
        fresh = slice(*_lines_of(new, section))
        lines = old.splitlines(keepends=True)
        lines[start:end] = new.splitlines(keepends=True)[fresh]
        old = "".join(lines)
    return old


def _lines_of(text: str, section: str) -> tuple[int, int]:
    """First line of a top-level section, and the first line after it."""
    whole = round_trip().load(text)
    starts = sorted(whole.lc.key(key)[0] for key in whole)
    start = whole.lc.key(section)[0]
    following = [line for line in starts if line > start]
    return start, following[0] if following else len(text.splitlines())


def _finished(name: str, root: Path) -> bool:
    return (root / POLICIES / name / MANIFEST).is_file()


def _refuse(names: list[str], what: str, force: bool) -> None:
    if names and not force:
        raise ConfigError(
            f"finished segment(s) {', '.join(names)} would be {what}",
            where=f"{PARAMS}: segments",
            remedy="--force does it; DVC's cache keeps their artifacts until `hapo clean`",
        )


def _append(segments: CommentedMap, rounds: int | None) -> str:
    """Add a segment in the style of the last one; the comments after that move behind it."""
    last = list(segments)[-1]
    name = str(int(last) + 1) if last.isdecimal() else f"{last}x"
    fresh = CommentedMap(segments[last])  # values only: its comments stay where they are
    fresh["prev"] = DoubleQuotedScalarString(last)
    if rounds is not None:
        fresh["rounds"] = rounds
    if segments[last].fa.flow_style():
        fresh.fa.set_flow_style()
    tail = _take_tail(segments, last)
    segments[DoubleQuotedScalarString(name)] = fresh
    _give_tail(segments, name, tail)
    return name


def _drop_last(segments: CommentedMap, name: str) -> None:
    tail = _take_tail(segments, name)
    del segments[name]
    _give_tail(segments, list(segments)[-1], tail)


# ruamel hangs the comment lines that follow a value on that value's token, behind the first line
# break: what stands between the last segment and the next section belongs to the last segment.


def _leaf(segments: CommentedMap, name: str) -> tuple[CommentedMap, str]:
    """Where ruamel keeps the comment that follows segment `name`."""
    segment: CommentedMap = segments[name]
    if segment.fa.flow_style():
        return segments, name
    return segment, list(segment)[-1]


def _take_tail(segments: CommentedMap, name: str) -> str:
    owner, key = _leaf(segments, name)
    slot = owner.ca.items.get(key)
    if slot is None or slot[2] is None:
        return ""
    own, found, tail = slot[2].value.partition("\n")
    if own.strip():
        slot[2].value = own + found
    else:
        del owner.ca.items[key]
        segments[name].ca.comment = None  # a flow-style mapping holds the token a second time
    return str(tail)


def _give_tail(segments: CommentedMap, name: str, tail: str) -> None:
    if not tail:
        return
    owner, key = _leaf(segments, name)
    slot = owner.ca.items.get(key)
    if slot is not None and slot[2] is not None:
        slot[2].value = slot[2].value.rstrip("\n") + "\n" + tail
        return
    owner.ca.items[key] = [None, None, CommentToken("\n" + tail, CommentMark(0)), None]


def _set_final(whole: CommentedMap, last: str) -> None:
    whole["targets"]["final"]["policy"] = DoubleQuotedScalarString(last)


def _plain(value: Any) -> Any:
    """ruamel's containers and scalars as Python's own, for the strict schema."""
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
