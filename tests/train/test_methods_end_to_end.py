"""Every method through the real training stage on a tiny policy: two rounds, and exact resume."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import warm
from conftest import REPO
from ruamel.yaml import YAML
from tiny_segment import BUDGET, PARAMS, PROMPTS, SIZE, here, params_of, start, trained

from hapo_core.errors import HapoError
from pipeline.artifacts import read_json
from pipeline.artifacts.tables import GROUPS, ROLLOUTS, ROUNDS, SURPRISE, read_frame
from pipeline.audit.numbers import audit_run
from pipeline.audit.words import State, answer
from pipeline.config import parse_params
from pipeline.flows.observer import Observer
from pipeline.train.checkpoint import read_gate_state, read_waiting
from pipeline.train.segment import Segment, train_segment

__all__ = ["here", "start"]  # fixtures


@pytest.mark.parametrize(
    "method", ["srft", "hpt", "relift", "chord", "prefix_rft", "bread", "real"]
)
def test_every_method_runs_two_rounds(here: Path, method: str) -> None:
    rounds, groups, rollouts = trained(method)
    assert len(rounds) == 2 and (rounds["trained_tokens"] > 0).all()
    kinds = rollouts.kind.value_counts()
    own, branches = rollouts[rollouts.kind == "policy"], rollouts[rollouts.kind == "continuation"]
    assert len(groups) == 2 * PROMPTS
    # What was generated is all counted, and no response exceeds the budget.
    sampled = pd.concat([own, branches])
    assert sampled.token_ids.map(len).sum() == rounds.generated_tokens.sum()
    assert len(sampled) == rounds.rollouts.sum()
    given = branches.prefix_tokens.astype(int)
    assert (branches.token_ids.map(len) + given <= BUDGET).all()
    assert [len(x) for x in sampled.logprobs] == [len(x) for x in sampled.token_ids]
    injected = groups.decision == "injected"
    assert injected.sum() == rounds.injected_groups.sum()
    failed = (groups.successes == 0) & (groups.known > 0)
    match method:
        case "srft":
            assert injected.all() and kinds["teacher"] == 2 * PROMPTS
            assert own.advantage.isin([-1.0, 0.1]).all()
        case "hpt":
            assert (injected == failed).all() and injected.any()
            assert own.advantage.isna().sum() == SIZE * injected.sum()
        case "relift":
            # Failed prompts of both rounds (6 of 24, none twice), in batches of 4.
            waiting = read_waiting(Path("artifacts/policy/1"))
            assert rounds.extra_rows.sum() + len(waiting) == failed.sum()
            assert rounds.extra_rows.sum() >= 4 > len(waiting) and not injected.any()
        case "chord":
            assert (rounds.extra_rows == PROMPTS * SIZE / 4).all() and not injected.any()
        case "prefix_rft":
            assert injected.all() and len(branches) == 2 * PROMPTS
            assert len(own) == 2 * PROMPTS * (SIZE - 1) and branches.advantage.notna().all()
        case "bread":
            assert branches.prompt_id.nunique() == failed.sum() > 0
            assert branches.advantage.notna().sum() == SIZE * injected.sum() > 0
            assert (injected <= failed).all()
        case "real":
            assert own.advantage.dropna().isin([-1.0, 1.0]).all() and not injected.any()
            mixed = (groups.successes > 0) & (groups.successes < groups.known)
            assert (
                groups.dead == ~mixed
            ).all() and own.advantage.notna().sum() == SIZE * mixed.sum()


@pytest.mark.parametrize("preset", ["dapo", "dr_grpo", "gspo"])
def test_every_preset_runs_two_rounds(here: Path, preset: str) -> None:
    rounds, groups, rollouts = trained("grpo", objective={"preset": preset})
    mixed = (groups.successes > 0) & (groups.successes < groups.known)
    assert len(rounds) == 2 and len(rollouts) == SIZE * len(groups)
    if preset != "dapo":
        assert len(groups) == 2 * PROMPTS
        return
    discarded = groups.decision == "discarded"
    assert (discarded == ~mixed).all() and discarded.any()
    for _, one in groups.groupby("round"):
        assert one.prompt_id.is_unique
        enough = ((one.decision != "discarded").sum() == PROMPTS) or len(one) == 24
        assert enough  # six mixed groups, or all prompts were tried


def test_an_entropy_bonus_hides_no_dead_group(here: Path) -> None:
    """The preset `luffy` has one: every row has a gradient, and equal rewards still say nothing."""
    rounds, groups, _ = trained("grpo", objective={"preset": "luffy"})
    mixed = (groups.successes > 0) & (groups.successes < groups.known)
    assert (groups.dead == ~mixed).all() and groups.dead.any()
    assert rounds.dead_groups.sum() == groups.dead.sum()


def test_a_budget_of_tokens_ends_the_segment(here: Path) -> None:
    """Exactly the rounds of a plain segment of that length, also when it is resumed."""
    plain, _, _ = trained("grpo")
    ends = [hashes(Path("artifacts/policy/1/model"))]
    needed = int(plain.generated_tokens[0]) + 1
    params = params_of("grpo", segments={"1": {"prev": "base", "rounds": 9, "generated": needed}})
    for resumed in (False, True):
        for folder in ("artifacts/policy/1", ".hapo"):
            shutil.rmtree(folder)
        if resumed:
            segment = Segment(params, "1", Observer("train@1"))
            segment.round(0)
            segment.close()
        train_segment(params, "1", Observer("train@1"))
        rounds = read_frame(Path("artifacts/policy/1/rounds.parquet"), ROUNDS)
        assert rounds["round"].tolist() == [1, 2]
        assert rounds.generated_tokens.sum() >= needed > rounds.generated_tokens[0]
        ends.append(hashes(Path("artifacts/policy/1/model")))
    assert ends[0] == ends[1] == ends[2]
    assert read_json(Path("artifacts/policy/1/manifest.json"))["facts"]["rounds"] == [0, 2]


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_relift_killed_while_its_buffer_holds_prompts_ends_with_the_same_bytes(
    here: Path, warmth: dict[str, str]
) -> None:
    """kill -9 after the first of three rounds; the buffer fills in the second at the earliest."""
    raw = {**PARAMS, "method": "relift", "segments": {"1": {"prev": "base", "rounds": 3}}}
    raw["teacher"] = {"relift": {"buffer": 8}}
    with Path("params.yaml").open("w") as file:
        YAML().dump(raw, file)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    env = {**kept, "PYTHONPATH": str(REPO), "HAPO_PROGRESS_SECONDS": "0", **warmth}
    command = [warm.python(env), "-m", "pipeline.train", "--segment", "1"]
    stage = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert stage.stdout is not None
    for line in stage.stdout:
        if "round 1/3" in line:
            warm.kill(stage)
            break
    stage.wait()
    assert not Path("artifacts/policy/1").exists()
    again = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert "continues after round" in again
    killed = hashes(Path("artifacts/policy/1"))
    rounds = read_frame(Path("artifacts/policy/1/rounds.parquet"), ROUNDS)
    assert rounds.extra_rows[0] == 0 and rounds.extra_rows.sum() >= 8
    for folder in ("artifacts/policy/1", ".hapo"):
        shutil.rmtree(folder)
    train_segment(parse_params(json.loads(json.dumps(raw))), "1", Observer("train@1"))
    assert hashes(Path("artifacts/policy/1")) == killed


def test_relift_carries_its_buffer_from_segment_to_segment(here: Path) -> None:
    """One segment of two rounds, or two of one: the same policy and the same prompts waiting."""
    ends = []
    for rounds in ((2,), (1, 1)):
        names = [str(k + 1) for k in range(len(rounds))]
        links = zip(names, ["base", *names], rounds, strict=False)
        params = params_of(
            "relift",
            teacher={"relift": {"buffer": 8}},
            segments={name: {"prev": prev, "rounds": count} for name, prev, count in links},
            targets={"base": {"policy": "base"}, "final": {"policy": names[-1]}},
        )
        for name in names:
            train_segment(params, name, Observer(f"train@{name}"))
        last = Path("artifacts/policy") / names[-1]
        ends.append((hashes(last / "model"), hashes(last / "state")))
        table = read_frame(last / "rounds.parquet", ROUNDS)
        assert table.extra_rows.iloc[-1] == 8  # six of the first round were waiting
        shutil.rmtree("artifacts/policy/1")
    assert ends[0] == ends[1]


# --- surprise of traces (METHOD 9)

GATE = {"threshold": {"kind": "constant", "gamma": 0.7}}


def afresh() -> None:
    for folder in ("artifacts/policy/1", ".hapo"):
        shutil.rmtree(folder)


def test_measuring_changes_nothing_but_the_tables(here: Path) -> None:
    """The same policy and decisions; without the key not a column more."""
    rounds, groups, rollouts = trained("hapo", gate=GATE)
    assert list(groups) == GROUPS.names and list(rollouts) == ROLLOUTS.names
    assert not [name for name in rounds if "surprise" in name or "refused" in name]
    plain = hashes(Path("artifacts/policy/1/model"))
    afresh()
    again, measured, _ = trained("hapo", gate=GATE, teacher={"measure_surprise": True})
    assert hashes(Path("artifacts/policy/1/model")) == plain
    pd.testing.assert_frame_equal(measured[GROUPS.names], groups)
    assert list(measured) == [*GROUPS.names, *SURPRISE.names]
    assert measured.surprise.notna().all() and not measured.refused.any()
    excess = measured.surprise - measured.own_surprise
    injected = measured.decision == "injected"
    assert injected.any()
    for number, row in again.set_index("round").iterrows():
        here_ = (measured["round"] == number) & injected
        assert row.surprise_of_injected == pytest.approx(excess[here_].mean(), abs=1e-9)
        assert pd.isna(row.surprise_of_refused) and row.refused_groups == 0
        assert row.surprise_tokens > 0


def test_a_bound_refuses_resumes_exactly_and_is_audited(here: Path) -> None:
    """A bound in the middle of what the traces have: some enter, some are refused; a segment that
    stopped after its first round ends with the same bytes, and the audit replays the decisions."""
    _, groups, _ = trained("hapo", gate=GATE, teacher={"measure_surprise": True})
    opened = groups[(groups["round"] == 1) & (groups.decision == "injected")]
    bound = float((opened.surprise - opened.own_surprise).median()) + 1e-3
    afresh()
    chosen = {"gate": {**GATE, "max_surprise": bound}, "teacher": {"trace_choice": "likeliest"}}
    rounds, groups, rollouts = trained("hapo", **chosen)
    above = groups.surprise - groups.own_surprise > bound
    assert (groups.refused == above).all()
    refused = groups.decision == "refused"
    assert refused.any() and (groups.decision == "injected").any()
    assert not (groups.decision[above] == "injected").any() and above[refused].all()
    assert rounds.refused_groups.sum() == refused.sum()
    named = set(zip(groups["round"][refused], groups.prompt_id[refused], strict=True))
    taught = rollouts[rollouts.kind == "teacher"]
    assert not named & set(zip(taught["round"], taught.prompt_id, strict=True))
    params = params_of("hapo", **chosen)
    audit = audit_run(params, Path(), 100)
    assert not audit.contradicted and all(g.replayed for g in audit.gradients)
    usable = groups["round"].eq(1) & groups.has_trace & ~groups.refused
    share = (groups.decision[usable] == "injected").mean()
    assert audit.rounds[0].measured == pytest.approx(share) == 1.0
    whole = hashes(Path("artifacts/policy/1"))
    afresh()
    segment = Segment(params, "1", Observer("train@1"))
    segment.round(0)
    segment.close()
    train_segment(params, "1", Observer("train@1"))
    assert hashes(Path("artifacts/policy/1")) == whole


def test_the_alarm_shuts_the_gate_for_good_and_resumes_exactly(here: Path) -> None:
    """A limit that every trace exceeds: six open groups a round, so that it speaks after round 2.
    Two segments, the second stopped in between, end with the policy and the state of one."""
    chosen: dict[str, Any] = {
        "gate": {**GATE, "stop_loss": {"surprise": -50.0}},
        "train": {"prompts_per_round": PROMPTS, "watch": ["heldout"], "probe_every": 2},
    }
    rounds, _, _ = trained("hapo", **chosen, segments={"1": {"prev": "base", "rounds": 3}})
    assert rounds.alarm.tolist() == [0.0, 1.0, 1.0]
    assert rounds.gamma.tolist() == [0.7, 0.7, 0.0]
    assert (rounds.injected_groups[:2] > 0).all() and rounds.injected_groups[2] == 0
    assert rounds.watch_heldout.notna().tolist() == [False, True, False]
    state, _ = read_gate_state(Path("artifacts/policy/1"))
    assert state.alarm is not None and set(state.alarm.start) == {"heldout"}
    spoken = state.alarm.spoken
    assert spoken is not None and (spoken.witness, spoken.round) == ("surprise", 2)
    params = params_of("hapo", **chosen, segments={"1": {"prev": "base", "rounds": 3}})
    audit = audit_run(params, Path(), 0)
    assert answer(audit).state is State.GONE and audit.alarm == spoken and not audit.contradicted
    assert "shut the gate after round 2" in answer(audit).sentences[0]
    whole = {part: hashes(Path("artifacts/policy/1") / part) for part in ("model", "state")}
    afresh()
    two = {"1": {"prev": "base", "rounds": 1}, "2": {"prev": "1", "rounds": 2}}
    targets = {"base": {"policy": "base"}, "final": {"policy": "2"}}
    params = params_of("hapo", **chosen, segments=two, targets=targets)
    train_segment(params, "1", Observer("train@1"))
    stopped = Segment(params, "2", Observer("train@2"))
    stopped.round(1)
    stopped.close()
    train_segment(params, "2", Observer("train@2"))
    assert {p: hashes(Path("artifacts/policy/2") / p) for p in whole} == whole


# --- the policy, shown the trace, scores its own rollouts (METHOD 9)


DISTILL = {"template": "{solution}\n{problem}", "gain_problems": 3, "gain_samples": 1}


@pytest.mark.parametrize("method", ["opsd", "hapo"])
def test_distillation_runs_resumes_exactly_and_is_audited(here: Path, method: str) -> None:
    """This policy gains nothing from a trace: it is refused before a round, or told to go on."""
    use = {"use": "distill"} if method == "hapo" else {}
    teacher: dict[str, Any] = {**use, "distill": DISTILL}
    for _ in range(2):  # and again by the same command
        with pytest.raises(HapoError, match="would know no more than the policy"):
            trained(method, gate=GATE, teacher=teacher)
    shutil.rmtree(".hapo")
    teacher["distill"] = {**DISTILL, "without_gain": "go_on"}
    rounds, groups, rollouts = trained(method, gate=GATE, teacher=teacher)
    gain = read_json(Path("artifacts/policy/1/gain.json"))
    assert gain["problems"] == 3 and gain["difference"] == pytest.approx(
        gain["with"] - gain["without"]
    )
    injected = groups.decision == "injected"
    assert injected.any() and (rollouts.kind == "policy").all() and not rollouts.replaced.any()
    assert rollouts.advantage.isna().all() == (method == "opsd")
    entered = groups[injected].groupby("round").size()
    assert (rounds.set_index("round").injected_groups == entered).all()
    assert (rounds.teacher_tokens > 0).all() and (rounds.distill_gap.abs() > 0).all()
    params = params_of(method, gate=GATE, teacher=teacher)
    audit = audit_run(params, Path(), 100)
    assert answer(audit).state is State.PRESENT and not audit.contradicted
    assert all(g.replayed and g.injected and not g.gap.equal for g in audit.gradients)
    whole = hashes(Path("artifacts/policy/1"))
    afresh()
    segment = Segment(params, "1", Observer("train@1"))
    segment.round(0)
    segment.close()
    train_segment(params, "1", Observer("train@1"))
    assert hashes(Path("artifacts/policy/1")) == whole
