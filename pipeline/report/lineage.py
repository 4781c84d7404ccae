"""Whether all artifacts are whole and belong to one run: each names what it was made from."""

from __future__ import annotations

from pathlib import Path

from hapo_core.errors import DataError
from pipeline.artifacts import MANIFEST, check_manifest, identity
from pipeline.config import Params


def check_one_run(params: Params, artifacts: Path) -> None:
    """Check tables against their manifests, and the chain data -> segments -> evaluations.

    A folder without a manifest (a hand-made one) and facts that an older version did not write are
    passed over.

    Raises:
        DataError: a damaged table, a missing shard, or an artifact that was made from another one
            than lies here.
    """
    data, policy = artifacts / "data", artifacts / "policy"
    problems = None
    if (data / MANIFEST).is_file():
        files = check_manifest(data, tables_only=True)["files"]
        problems = files.get("problems.parquet", {}).get("sha256")
    _facts(policy / "base")
    for name in params.cold_start:
        facts = _facts(policy / name)
        _same(facts, "previous", policy / "base", policy / name, f"cold_start@{name}")
    for name, segment in params.segments.items():
        facts = _facts(policy / name)
        _same(facts, "previous", policy / segment.prev, policy / name, f"train@{name}")
        if problems and facts.get("problems", problems) != problems:
            raise _foreign(policy / name, data / "problems.parquet", f"train@{name}")
    for name, target in params.targets.items():
        folder = artifacts / "evaluation" / name
        _same(_facts(folder), "measured", policy / target.policy, folder, f"evaluate@{name}")


def _facts(folder: Path) -> dict[str, object]:
    if not (folder / MANIFEST).is_file():
        return {}
    return dict(check_manifest(folder, tables_only=True)["facts"])


def _same(facts: dict[str, object], key: str, source: Path, folder: Path, stage: str) -> None:
    known = facts.get(key)
    if known is not None and (source / MANIFEST).is_file() and known != identity(source):
        raise _foreign(folder, source, stage)


def _foreign(folder: Path, source: Path, stage: str) -> DataError:
    return DataError(
        f"it was made from another one than the present {source}",
        where=str(folder),
        remedy=f"`dvc checkout` if it was copied here; else `dvc repro {stage}`",
    )
