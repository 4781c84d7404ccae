"""A source as lines of params.yaml, which curation takes unchanged."""

from __future__ import annotations

import io
import re

from ruamel.yaml.comments import CommentedMap

from pipeline.config import TableSource
from pipeline.config.yaml import round_trip


def as_yaml(name: str, source: TableSource) -> list[str]:
    """`curate.sources.NAME` as lines of params.yaml."""
    entry = CommentedMap(kind="table")
    if source.adapter != "generic":
        entry["adapter"] = source.adapter
    for option in ("path", "hub", "revision", "config", "mark", "traces_path"):
        if getattr(source, option) is not None:
            entry[option] = getattr(source, option)
    if source.hub is not None:
        entry["split"] = source.split
    for option in ("columns", "traces_columns"):
        if getattr(source, option):
            entry[option] = CommentedMap(getattr(source, option))
            entry[option].fa.set_flow_style()
    if source.strict is not None:
        entry["strict"] = source.strict
        entry.yaml_add_eol_comment("rows that fail are counted", "strict")
    stream = io.StringIO()
    round_trip().dump({"curate": {"sources": {source_name(name): entry}}}, stream)
    return stream.getvalue().splitlines()


def source_name(text: str) -> str:
    """A name for the source: its file's or dataset's, in letters that a name may have."""
    stem = re.split(r"[\\/]", text.rstrip("/\\"))[-1].partition(".")[0]
    bare = re.sub(r"[^a-z0-9_]+", "_", stem.lower()).strip("_")
    return bare if bare and bare[0].isalpha() else f"own_{bare}".rstrip("_")
