"""The flow: what Prefect shows of a run, from top to bottom.

    hapo                                  `hapo run`, or `@flow` of pipeline/run/flow.py
    |-- curate      read sources, read benchmarks, select problems, ...
    |-- base        take over
    |-- cold_start@start                  ... only where params.yaml has one
    |-- train@1     rollout 1, verify 1, gate 1, update 1, rollout 2, ...
    |-- train@2
    |-- evaluate@final                    ... a task run `Cached` for each stage that DVC skips
    `-- report      collect, draw

DVC decides which stages run and in which order (dvc.yaml); each is a process of its own, which
`run_stage` shows as a flow run nested under `hapo`. This module declares what such a flow consists
of, and `Observer`, through which a stage tells of itself, takes nothing that is not declared here.
Behind it: `stage.py` (a stage as a process), `observer.py` (what a stage is given; knows nothing of
Prefect), `flow_run.py` (Prefect's engine beside the work, so that a server that dies or hangs costs
a warning), `pipeline/run/flow_run.py` (`hapo` itself: cached stages, Cancel, leftovers of a kill).
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class StageFlow:
    """A flow of Prefect's, and what its runs consist of.

    Args:
        name: of the flow; its runs are called after the DVC stage (`train@2`).
        tasks: names of its task runs; `*` stands for a name from params.yaml.
        artifacts: keys of its artifacts, likewise.
    """

    name: str
    tasks: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()

    def check_task(self, name: str) -> None:
        """Raises ValueError for a task that is not declared."""
        self._check("task", name, self.tasks)

    def check_artifact(self, key: str) -> None:
        """Raises ValueError for an artifact that is not declared."""
        self._check("artifact", key, self.artifacts)

    def _check(self, kind: str, name: str, declared: tuple[str, ...]) -> None:
        if not any(fnmatchcase(name, pattern) for pattern in declared):
            known = ", ".join(declared) or "none"
            raise ValueError(
                f"{kind} {name!r} of flow {self.name!r} is not declared in {__name__}: {known}"
            )


HAPO = StageFlow("hapo", artifacts=("summary",))
"""The top: its task runs are the stages. `summary`: the report's numbers and verdict."""

CURATE = StageFlow(
    "curate",
    tasks=(
        "read sources",
        "read benchmarks",
        "select problems",
        "grade traces",
        "choose traces",
        "write account",
    ),
    artifacts=("curation",),  # rows in and out of every rule
)
BASE = StageFlow("base", tasks=("take over",))  # a tiny base is trained instead: progress lines
COLD_START = StageFlow("cold_start")  # supervised rounds: progress lines; only where there is one
TRAIN = StageFlow(
    "train",
    tasks=("rollout", "verify", "gate", "update"),  # each round; shown with the round's number
    artifacts=(
        "rounds-*",  # of a segment: a table that grows while it trains
        "segment-*",  # a short report with two figures at its end
    ),
)
EVALUATE = StageFlow("evaluate", tasks=("benchmark *",))
REPORT = StageFlow("report", tasks=("collect", "draw"), artifacts=("report",))

STAGES = (CURATE, BASE, COLD_START, TRAIN, EVALUATE, REPORT)
"""In the order of the graph."""
COMMANDS = (StageFlow("score"),)
"""Commands that show themselves like a stage, where PREFECT_API_URL is set; `hapo evaluate` is
shown as the stage is."""


def flow_of(run: str) -> StageFlow:
    """The flow of a run that is called after its DVC stage.

    Raises:
        ValueError: no such flow is declared.
    """
    kind = run.partition("@")[0]
    for declared in (HAPO, *STAGES, *COMMANDS):
        if declared.name == kind:
            return declared
    raise ValueError(f"no flow is declared for {run!r} in {__name__}")
