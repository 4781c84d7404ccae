"""The flow is what `pipeline/flows/flow.py` says: no more, and nothing that is not there."""

from __future__ import annotations

import re

import pytest
from conftest import REPO

from pipeline.flows.flow import HAPO, STAGES, flow_of
from pipeline.flows.observer import Observer
from pipeline.flows.stage import run_stage


@pytest.mark.parametrize("stage", ["train@1", "evaluate@final", "report"])
def test_what_is_not_declared_is_refused(stage: str) -> None:
    observer = Observer(stage)
    for tell in (
        lambda: observer.task("something", int, "7"),
        lambda: observer.table_artifact("something", []),
        lambda: observer.growing_table("something", []),
        lambda: observer.markdown_artifact("something", ""),
    ):
        with pytest.raises(ValueError, match=r"'something'.*not declared in pipeline\.flows\.flow"):
            tell()


def test_a_stage_without_a_flow_is_refused_before_it_works() -> None:
    with pytest.raises(ValueError, match="no flow is declared for 'trian@1'"):
        run_stage("trian@1", lambda observer: pytest.fail("worked"))


def test_the_stages_are_those_of_dvc_in_its_order() -> None:
    stages = re.findall(
        r"^  (\w+):$", (REPO / "dvc.yaml").read_text().partition("\nplots:")[0], re.M
    )
    assert stages.pop(0) == "deps"  # the locks: no work of a run, and no flow
    assert [flow.name for flow in STAGES] == stages
    assert all(flow_of(f"{flow.name}@x") is flow for flow in (HAPO, *STAGES))


@pytest.mark.parametrize("flow", STAGES, ids=lambda flow: flow.name)
def test_every_declared_name_is_told_by_its_stage(flow) -> None:
    folders = [REPO / "pipeline" / room for room in (flow.name, "show")]
    code = "\n".join(path.read_text() for folder in folders for path in folder.glob("**/*.py"))
    for pattern in (*flow.tasks, *flow.artifacts):
        literal = re.escape(pattern).replace(r"\*", r"\{[^}]*\}")
        assert re.search(rf'"{literal}"', code), pattern


def test_prefects_flow_bears_the_declared_name() -> None:
    from pipeline.run.flow import hapo

    assert hapo.name == HAPO.name == "hapo"
