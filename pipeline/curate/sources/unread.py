"""Files that no reader takes: how each kind becomes one that is read, as a line to type."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from hapo_core.json_text import parse_json

_MOST = 100_000_000
"""Bytes of a JSON document that are looked into for its rows."""
_PACKED = {".zst": "unzstd", ".xz": "unxz", ".bz2": "bunzip2", ".zip": "unzip", ".tar": "tar xf"}
_SHEETS = (".xlsx", ".xls", ".ods", ".numbers")
_NEAR = (".json", ".json.gz", ".tsv", ".arrow", *_SHEETS, *_PACKED)
"""Endings of files that may well hold the data."""


def how_to_read(path: Path, known: str) -> str:
    """The remedy for a file of another kind.

    Args:
        known: the endings that are read, in words.
    """
    name, quoted = path.name.lower(), shlex.quote(str(path))
    if name.endswith(".json"):
        return json_remedy(path)
    if name.endswith(".json.gz"):
        return f"gunzip {quoted}, and what comes out: if it is one object a line, name it .jsonl"
    if name.endswith((".tsv", ".tab")):
        return "write its rows as lines of JSON:\n" + _python(
            f"csv, json; [print(json.dumps(r)) for r in csv.DictReader(open({str(path)!r}, "
            "newline=''), delimiter='\\t')]"
        )
    if name.endswith(_SHEETS):
        return "export the sheet as CSV, separated by commas, in UTF-8"
    if name.endswith(".arrow"):
        return "write it as parquet:\n    " + _to_parquet(f"Dataset.from_file({str(path)!r})")
    if name.endswith(".eval"):
        return (
            f"it is a log of inspect: inspect log dump {quoted} > log.json, and then\n"
            + _python(
                "json; [print(json.dumps(r)) for r in json.load(open('log.json'))['samples']]"
            )
        )
    if path.suffix.lower() in _PACKED:
        return f"unpack it: {_PACKED[path.suffix.lower()]} {quoted}"
    return f"convert it to one of {known}"


def json_remedy(path: Path) -> str:
    """How a JSON document becomes a row a line, by what is in it."""
    text = ""
    if path.is_file() and path.stat().st_size <= _MOST:
        text = path.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if text.startswith("{") and _is_object(text.partition("\n")[0]) and "\n{" in text:
        return f"it has one object a line: mv {path} {path.with_suffix('.jsonl')}"
    return "one JSON document is made rows by\n" + _python(
        f"json; [print(json.dumps(r)) for r in json.load(open({str(path)!r})){_inside(text)}]"
    )


def python_remedy(path: Path) -> str:
    """How lines in Python's notation, single quotes and all, become JSON."""
    return "the lines are Python's notation, not JSON; they are made so by\n" + _python(
        f"ast, json; [print(json.dumps(ast.literal_eval(x))) for x in open({str(path)!r})]"
    )


def _inside(text: str) -> str:
    """The key under which the rows of a document lie, as an index; empty where it is a list."""
    try:
        whole = parse_json(text) if text.startswith("{") else {}
    except ValueError:
        return ""
    rows = [k for k, v in whole.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    return f"[{rows[0]!r}]" if rows else ""


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _python(code: str) -> str:
    return f'    python -c "import {code}" > converted.jsonl'


def _to_parquet(opened: str) -> str:
    what = "load_from_disk" if "load_from_disk" in opened else "Dataset"
    return f"python -c \"from datasets import {what}; {opened}.to_parquet('converted.parquet')\""


def folder_remedy(path: Path, known: str) -> str:
    """The remedy for a folder without a file that is read."""
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.parent.name for p in path.glob("*/state.json"))
        first = next((s for s in ("train", *splits) if s in splits), "train")
        return (
            f"it is a data set of `datasets`, saved by split; one of {', '.join(splits)}:\n    "
            + (_to_parquet(f"load_from_disk({str(path / first)!r})"))
        )
    if (path / "state.json").is_file():
        return "it is a data set of `datasets`; write it as parquet:\n    " + _to_parquet(
            f"load_from_disk({str(path)!r})"
        )
    other = sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(_NEAR))
    if other:
        return f"{other[0]}: {how_to_read(other[0], known)}"
    return f"put files there that end in one of {known}"


def missing_remedy(path: Path) -> str:
    """The remedy for a path at which there is nothing."""
    text = str(path)
    if re.match(r"\w+:/", text):
        return "files are read from the disk: download it first (curl -O ADDRESS)"
    mend = (
        "mend the path; in params.yaml it starts at the project's folder, on the command line "
        "where you are"
    )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith(".") and not path.suffix:
        return (
            f"{mend}; a data set of the hub: hf download {text} --repo-type dataset "
            "--local-dir DIR, and DIR; or `hub` in params.yaml (docs/data.md)"
        )
    return mend
