"""What `hapo run` was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """What somebody, or a schedule, wants to run.

    Attributes:
        targets: stages (`train@2`, `evaluate`); none means the whole graph.
        force: run the targets (or everything) even if nothing changed.
        force_stage: run this one stage in any case, then what follows from it.
        profile: begin with this shipped profile instead of the present params.yaml.
        overrides: `key.path=value` (YAML), written into params.yaml.
        wait: wait for a run that holds the project or the device, instead of an error.
        person: somebody typed it here. A run from the UI or a schedule may not name code.
    """

    targets: tuple[str, ...] = ()
    force: bool = False
    force_stage: str | None = None
    profile: str | None = None
    overrides: tuple[str, ...] = ()
    wait: bool = False
    person: bool = True

    def dvc_words(self) -> Iterator[list[str]]:
        """The arguments of `dvc`, one command after the other."""
        if self.force_stage is not None:
            yield ["repro", "--force", "--single-item", "--", self.force_stage]
        if self.force and self.targets:
            yield ["repro", "--force", "--single-item", "--", *self.targets]
        elif self.force:
            yield ["repro", "--force"]
            return
        yield ["repro", "--", *self.targets] if self.targets else ["repro"]
