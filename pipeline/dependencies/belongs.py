"""Whether what was recorded of the stages is of the artifacts that lie here.

DVC tells what has changed on the disk, but only to who asks it; a record or an artifact that was
copied from another run is whole in itself. So a record names its artifact and what that was made
from, and whoever shows one beside the other compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hapo_core.errors import DataError
from pipeline.artifacts import MANIFEST, identity, read_manifest
from pipeline.artifacts.places import output_of
from pipeline.dependencies.lock import Lock
from pipeline.dependencies.provenance import OF


@dataclass(frozen=True)
class Foreign:
    """What does not belong to the artifacts at hand: the record of `stage`, or (`record` is
    False) only what it was made from. `said`: a sentence."""

    stage: str
    record: bool
    said: str


def foreign(made: Mapping[str, Lock], root: Path = Path()) -> Iterator[Foreign]:
    """All records that are not of the artifacts below `root`.

    What is not here, or was recorded by an older version, is passed over.
    """
    for stage, record in made.items():
        output = output_of(stage)
        here = None if output is None else _present(root / output)
        if record.get("stage", stage) != stage:
            said = f"what is recorded of {stage} is the record of {record['stage']}."
            yield Foreign(stage, True, said)
        elif here is not None and record.get(OF, here) != here:
            said = (
                f"what is recorded of {stage} is of another artifact than {output}: one of the two "
                "was copied here from another run; `dvc checkout` restores both."
            )
            yield Foreign(stage, True, said)
        for name, was in record.get("inputs", {}).items():
            now = _present(root / name)
            if now is not None and now != was:
                said = f"{stage} was made from another {name} than the one that is here."
                yield Foreign(stage, False, said)


def _present(path: Path) -> str | None:
    """A folder's identity, or the hash that its folder's manifest has of a file."""
    try:
        if (path / MANIFEST).is_file():
            return identity(path)
        for folder in path.parents:
            if (folder / MANIFEST).is_file():
                entry = read_manifest(folder)["files"].get(path.relative_to(folder).as_posix())
                return None if entry is None else str(entry["sha256"])
    except DataError:  # damaged: whoever reads the artifact says so
        return None
    return None
