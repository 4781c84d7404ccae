"""`hapo samples`: what the policy wrote, as a reader wants it; on a real run of seconds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tiny_segment import PARAMS

from hapo_core.errors import DataError
from pipeline import cli
from pipeline.artifacts.tables import ROLLOUTS, read_frame
from pipeline.base.stage import build_base
from pipeline.config import Params, parse_params
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer
from pipeline.samples import page
from pipeline.samples.select import (
    Sample,
    Wanted,
    beside,
    choice_of_round,
    chosen,
    latest,
    of_round,
    read_problems,
    rollout_files,
    shortened,
    spread,
)
from pipeline.samples.text import as_text
from pipeline.samples.verdicts import with_rules
from pipeline.train.segment import train_segment


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two trained rounds of HAPO."""
    root = tmp_path_factory.mktemp("run")
    before = Path.cwd()
    try:
        import os

        os.chdir(root)
        for name in ("dvc.yaml",):
            Path(name).write_text("stages: {}\n")
        Path(".dvc").mkdir()
        params = settings()
        Path("params.yaml").write_text(as_yaml())
        curate(params, Observer("curate"))
        build_base(params, Observer("base"))
        train_segment(params, "1", Observer("train@1"))
    finally:
        os.chdir(before)
    return root


def settings() -> Params:
    return parse_params(PARAMS | {"method": "hapo"})


def as_yaml() -> str:
    import json

    return json.dumps(PARAMS | {"method": "hapo"})


@pytest.fixture
def here(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(run)
    return run


def made(text: str = "x", **more: object) -> Sample:
    facts: dict[str, object] = {
        "where": "round 1",
        "round": 1,
        "prompt_id": "p",
        "sample": 0,
        "kind": "policy",
        "problem": "1+1=?",
        "text": text,
        "extracted": None,
        "gold": "2",
        "reward_name": "math",
        "verdict": "wrong",
        "advantage": None,
        "finish": "stop",
        "tokens": 3,
    }
    return Sample(**(facts | more))  # type: ignore[arg-type]


def test_every_row_of_the_table_becomes_a_sample(here: Path) -> None:
    files = rollout_files(settings())
    frame = read_frame(files[1], ROLLOUTS)
    samples = list(of_round(files[1], read_problems(), 1))
    assert [s.text for s in samples] == frame["text"].tolist()
    assert {s.verdict for s in samples} <= set(frame["verdict"])
    replaced = [s for s in samples if s.note.startswith("replaced")]
    traces = [s for s in samples if s.kind == "teacher"]
    assert len(replaced) == int(frame["replaced"].sum()) == len(traces)
    assert all(s.group.startswith("S = ") and "gamma" in s.group for s in samples)


def test_the_rule_is_that_of_the_verifier_and_verdicts_repeat(here: Path) -> None:
    files = rollout_files(settings())
    samples = with_rules(list(of_round(files[1], read_problems(), 1)), settings())
    assert all(s.rule for s in samples if s.kind == "policy")
    assert not [s for s in samples if "today's verifier" in s.rule]


def test_another_verdict_of_today_is_said() -> None:
    (sample,) = with_rules([made(r"\boxed{2}", verdict="wrong")], settings())
    assert "today's verifier says correct" in sample.rule


def test_filters(here: Path) -> None:
    path = rollout_files(settings())[1]
    all_of_it = list(of_round(path, read_problems(), 1))
    prompt = all_of_it[0].prompt_id
    one = chosen(iter(all_of_it), Wanted(prompt=prompt, limit=100))
    assert {s.prompt_id for s in one} == {prompt} and len(one) >= 4
    wrong = chosen(iter(all_of_it), Wanted(verdicts=("wrong",), limit=100))
    assert {s.verdict for s in wrong} <= {"wrong"}
    entered = chosen(iter(all_of_it), Wanted(injected=True, limit=100))
    assert all("teacher's trace" in s.note for s in entered)
    assert len(chosen(iter(all_of_it), Wanted(limit=2))) == 2


def test_without_a_round_the_last_one_that_fits_is_shown(here: Path) -> None:
    """The teacher has left the last rounds of a good run: `--injected` goes back to it."""
    files = rollout_files(settings())
    assert {s.round for s in latest(files, Wanted())} == {max(files)}
    first = next(of_round(files[1], read_problems(), 1))
    only = {s.round for s in latest(files, Wanted(prompt=first.prompt_id))}
    there = [
        n for n in files if read_frame(files[n], ROLLOUTS)["prompt_id"].eq(first.prompt_id).any()
    ]
    assert only == {max(there)}
    assert latest(files, Wanted(prompt="nobody")) == []


def test_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["samples", "--round", "1", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("verdict   ") == 2 and "problem" in out and "gold" in out
    assert cli.main(["samples", "--round", "99"]) == 2
    assert "rounds 1 to 2 have some" in capsys.readouterr().err
    assert cli.main(["samples", "--prompt", "nobody"]) == 1
    assert cli.main(["samples", "--target", "final"]) == 2
    assert "hapo run" in capsys.readouterr().err


def test_page_is_whole_and_escapes_what_the_policy_wrote(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = made("</pre><script>alert(1)</script>", sample=7)
    monkeypatch.setattr(page, "training_samples", lambda params, root: [evil])
    text = page.write_page(settings()).read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert not re.search(r"""(src|href)=["']?http""", text)


def test_page_is_bounded(here: Path, tmp_path: Path) -> None:
    """500 rounds are as large as eight."""
    small = page.write_page(settings()).stat().st_size
    root = tmp_path / "long"
    shutil.copytree(here, root)
    source = rollout_files(settings(), root)[1]
    for number in range(3, 501):
        for table in ("rollouts", "groups"):
            shutil.copy(
                source.parents[1] / table / source.name,
                source.parents[1] / table / f"round-{number:05d}.parquet",
            )
    assert len(rollout_files(settings(), root)) == 500
    large = page.write_page(settings(), root).stat().st_size
    assert large < small * page.ROUNDS / 2 + 100_000


def test_choices() -> None:
    assert spread(range(1, 501), 3) == [1, 250, 500] or spread(range(1, 501), 3) == [1, 251, 500]
    assert spread([4, 5], 8) == [4, 5]
    dull = [made(prompt_id="dull", verdict="wrong") for _ in range(4)]
    mixed = [made(prompt_id="mixed"), made(prompt_id="mixed", verdict="correct")]
    helped = [made(prompt_id="helped"), made(prompt_id="helped", kind="teacher")]
    picked = choice_of_round([*dull, *mixed, *helped], 2)
    assert [s.prompt_id for s in picked] == ["helped", "helped", "mixed", "mixed"]
    assert "characters left out" in shortened(made("a" * 5000), 100).text


def test_a_page_is_bounded_whatever_the_group_and_the_texts_are() -> None:
    told = "replaced by the teacher's trace: it does not train"
    group = [made(sample=i, note=told if i == 40 else "") for i in range(64)]
    assert [s.sample for s in choice_of_round(group, 1, 4)] == [0, 1, 2, 40]
    long = shortened(
        made("a" * 5000, problem="b" * 5000, gold="7" * 5000, extracted="7" * 5000), 100
    )
    assert all(
        len(str(text)) < 200 for text in (long.text, long.problem, long.gold, long.extracted)
    )


def test_text_shows_a_problem_once_for_its_group() -> None:
    text = as_text([made(), made(sample=1), made(prompt_id="q", problem="2+2=?")])
    assert text.count("1+1=?") == 1 and text.count("2+2=?") == 1


def test_no_rollouts_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--target final"):
        rollout_files(settings(), tmp_path)


def test_nothing_is_lost_where_advantages_are_missing(here: Path) -> None:
    frame = read_frame(rollout_files(settings())[1], ROLLOUTS)
    shown = {
        s.advantage is None for s in of_round(rollout_files(settings())[1], read_problems(), 1)
    }
    assert shown == set(pd.isna(frame["advantage"]))


def test_a_verdict_that_there_is_not_and_round_zero(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["samples", "--verdict", "wrnog"]) == 2
    assert "did you mean 'wrong'" in capsys.readouterr().err
    assert cli.main(["samples", "--round", "0"]) == 2
    assert "rounds 1 to 2 have some" in capsys.readouterr().err


def test_one_policy_under_another() -> None:
    ours = [made(prompt_id="a"), made(prompt_id="b")]
    theirs = iter([made(prompt_id="b", where="base"), made(prompt_id="c", where="base")])
    found = beside(ours, theirs)
    assert [(s.prompt_id, s.where) for s in found] == [
        ("a", ours[0].where), ("b", ours[1].where), ("b", "base")
    ]  # fmt: skip


def test_a_table_of_another_run_is_named(run: Path) -> None:
    """Its problems are not those of the data here."""
    path = rollout_files(settings(), run)[1]
    with pytest.raises(DataError, match="copied here from another run"):
        next(of_round(path, {}, 1))
