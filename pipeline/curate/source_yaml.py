"""A source as lines of params.yaml, which curation takes unchanged."""

from __future__ import annotations

import re

from pipeline.config import TableSource

_PLAIN = re.compile(r"[A-Za-z_/.~][\w/.@~-]*")
_RESERVED = {"yes", "no", "on", "off", "true", "false", "null", "y", "n", "~", ".nan", ".inf"}


def as_yaml(name: str, source: TableSource) -> list[str]:
    """`curate.sources.NAME` as lines of params.yaml."""
    lines = ["curate:", "  sources:", f"    {source_name(name)}:", "      kind: table"]
    if source.adapter != "generic":
        lines.append(f"      adapter: {source.adapter}")
    for option in ("path", "hub", "revision", "config", "mark", "traces_path"):
        value = getattr(source, option)
        if value is not None:
            lines.append(f"      {option}: {_scalar(value)}")
    if source.hub is not None:
        lines.append(f"      split: {_scalar(source.split)}")
    for option in ("columns", "traces_columns"):
        pairs = getattr(source, option)
        if pairs:
            inside = ", ".join(f"{ours}: {_scalar(theirs)}" for ours, theirs in pairs.items())
            lines.append(f"      {option}: {{{inside}}}")
    if source.strict is not None:
        lines.append(f"      strict: {str(source.strict).lower()} # rows that fail are counted")
    return lines


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def source_name(text: str) -> str:
    """A name for the source: its file's or dataset's, in letters that a name may have."""
    stem = re.split(r"[\\/]", text.rstrip("/\\"))[-1].partition(".")[0]
    bare = re.sub(r"[^a-z0-9_]+", "_", stem.lower()).strip("_")
    return bare if bare and bare[0].isalpha() else f"own_{bare}".rstrip("_")
