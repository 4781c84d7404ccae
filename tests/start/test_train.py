"""`hapo train`: what it decides, what it refuses, and that the same line goes on."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from own import Own, make_own
from ruamel.yaml import YAML

from pipeline import cli
from pipeline.config import Params, load_params
from pipeline.start import train as train_module
from pipeline.start.pace import Pace


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    """Files of somebody, and an empty folder beside them to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(train_module, "measure", lambda *given: Pace(0.01, 1e-5))
    return make_own(tmp_path / "files")


def decided(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    lines = capsys.readouterr().out.splitlines()
    found = (line.split(maxsplit=1) for line in lines if line.startswith("  "))
    return {pair[0]: pair[1] for pair in found if len(pair) == 2}


def written() -> Params:
    return load_params(Path("params.yaml"))


def test_one_line_writes_a_project(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*own.words, "--rounds", "6", "--write-only"]) == 0
    said = decided(capsys)
    assert "200 of" in said["problems"] and "problem = question" in said["problems"]
    assert "joined by text; 200 problems have one" in said["solutions"]
    assert "60 of 60 sampled are right" in said["solutions"]
    assert "30 problems, never trained on" in said["held"]
    for what in ("prompts", "responses", "rounds", "model", "memory", "time"):
        assert what in said
    params = written()
    assert sum(s.rounds for s in params.segments.values()) == 6 and params.method == "hapo"
    held = [json.loads(x)["problem"] for x in Path("data/heldout.jsonl").read_text().splitlines()]
    assert len(held) == len(set(held)) == 30
    assert {row["question"] for row in own.rows("problems.jsonl")} > set(held)
    assert subprocess.check_output(["git", "status", "--short"]) == b""
    graph = YAML(typ="safe").load(Path("dvc.yaml"))
    assert str(own.path / "problems.jsonl") in graph["stages"]["deps"]["deps"]


def test_the_budgets_fit_the_longest(own: Own) -> None:
    from hapo_core.policy import load_policy
    from pipeline.curate.prompts import PromptMaker

    assert cli.main([*own.words, "--write-only"]) == 0
    maker = PromptMaker(load_policy(own.path / "model")[1])
    prompts = maker.prompts([str(r["question"]) for r in own.rows("problems.jsonl")])
    traces = maker.responses([str(r["solution"]) for r in own.rows("solutions.jsonl")])
    params = written()
    assert max(map(len, prompts)) <= params.curate.max_prompt_tokens
    assert max(map(len, traces)) <= params.curate.max_trace_tokens == params.rollout.max_tokens


def test_the_same_line_goes_on_and_more_rounds_are_added(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*own.words, "--write-only"]
    assert cli.main([*words, "--rounds", "4"]) == 0
    before = Path("params.yaml").read_bytes()
    assert cli.main([*words, "--rounds", "4"]) == 0
    assert Path("params.yaml").read_bytes() == before
    assert "goes on" in capsys.readouterr().out
    assert cli.main([*words, "--rounds", "9"]) == 0
    params = written()
    assert [s.rounds for s in params.segments.values()] == [4, 5]
    assert params.targets["final"].policy == "2"
    assert cli.main([*words, "--rounds", "3"]) == 2
    assert cli.main([*words, "--rounds", "9", "--method", "grpo"]) == 2
    err = capsys.readouterr().err
    assert "method: hapo -> grpo" in err and "hapo compare" in err


def test_overrides_and_a_test_file(own: Own) -> None:
    rows = own.rows("problems.jsonl")
    own.change("problems.jsonl", rows[:150])
    own.change("solutions.jsonl", own.rows("solutions.jsonl")[:150])
    (own.path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[150:]))
    more = ["--test", str(own.path / "test.jsonl"), "-S", "seed=5", "-S", "rollout.group_size=4"]
    assert cli.main([*own.words, *more, "--write-only"]) == 0
    params = written()
    assert params.seed == 5 and params.rollout.group_size == 4
    assert list(params.evaluate.benchmarks) == ["test"]
    assert not Path("data").exists()


def test_adapters_that_are_asked_for_decide_the_learning_rate(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*own.words, "-S", "update.lora.rank=4", "--write-only"]) == 0
    assert "adapters (LoRA) train" in decided(capsys)["model"]
    update = written().update
    assert update.lora is not None and update.lora.rank == 4
    wanted = train_module.Wanted(train_module.Given(own.path), "m", 1, 0)
    for asked, said in (
        ((), None),
        (("seed=1", "update.lora.rank=4"), True),
        (("update.lora.rank=4", "update.lora=null"), False),
    ):
        assert train_module._lora(replace(wanted, overrides=asked)) is said


def test_a_crowded_folder_is_left_alone(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    Path("thesis.tex").touch()
    assert cli.main([*own.words, "--write-only"]) == 2
    assert "--dir NAME" in capsys.readouterr().err
    assert [p.name for p in Path().iterdir()] == ["thesis.tex"]
    assert cli.main([*own.words, "--write-only", "--dir", "run"]) == 0
    assert (Path("run") / "params.yaml").is_file()


def test_init_makes_the_same_project(own: Own) -> None:
    assert cli.main([*own.words, "--write-only", "--dir", "a"]) == 0
    assert cli.main(["init", "b", *own.words[1:]]) == 0
    for name in ("params.yaml", "dvc.yaml", "data/heldout.jsonl"):
        assert (Path("a") / name).read_bytes() == (Path("b") / name).read_bytes()


def test_ids_join_where_there_are_some(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    own.change(
        "problems.jsonl", ({"uid": i, **row} for i, row in enumerate(own.rows("problems.jsonl")))
    )
    own.change(
        "solutions.jsonl",
        (
            {"problem_id": i, "response": row["solution"]}
            for i, row in enumerate(own.rows("solutions.jsonl"))
        ),
    )
    assert cli.main([*own.words, "--write-only"]) == 0
    assert "joined by id" in decided(capsys)["solutions"]


def test_solutions_beside_the_problems_with_another_mark(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    """GSM8K's own layout, and one whose solutions end in a sentence."""
    rows = zip(own.rows("problems.jsonl"), own.rows("solutions.jsonl"), strict=True)
    both = [(p["question"], str(p["answer"]), str(s["solution"])) for p, s in rows]
    lines = [(q, a, s.rpartition("\n")[0]) for q, a, s in both]
    words = own.words[:5]  # without a second file
    own.change("problems.jsonl", ({"question": q, "answer": f"{s}\n#### {a}"} for q, a, s in lines))
    assert cli.main([*words, "--write-only", "--dir", "gsm8k"]) == 0
    assert "adapter gsm8k" in decided(capsys)["problems"]
    own.change(
        "problems.jsonl",
        ({"prompt": q, "gold": a, "solution": f"{s}\nThe answer is {a}."} for q, a, s in lines),
    )
    assert cli.main([*words, "--write-only", "--dir", "said"]) == 0
    source = load_params(Path("said/params.yaml")).curate.sources["mine"]
    assert source.mark is not None and "answer" in source.mark  # type: ignore[union-attr]


# --- data that do not fit: what is wrong, three examples, what to set ---------------------------


def refused(own: Own, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The message; nothing may be written."""
    capsys.readouterr()
    assert cli.main([*own.words, *more, "--write-only"]) == 2
    assert list(Path().iterdir()) == []
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "remedy: " in err and "Traceback" not in err
    return err


def test_columns_that_nobody_can_guess(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    own.change(
        "problems.jsonl",
        ({"q1": r["question"], "q2": r["answer"]} for r in own.rows("problems.jsonl")),
    )
    err = refused(own, capsys)
    assert "no column looks like the problem; the rows have q1, q2" in err
    assert err.count("'q1': ") == 3 and "--columns problem=COLUMN" in err
    # The remedy works.
    words = ["--columns", "problem=q1,answer=q2", "--write-only"]
    assert cli.main([*own.words, *words]) == 0


def test_a_broken_line(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    place = own.path / "problems.jsonl"
    place.write_text(place.read_text()[:-30])
    err = refused(own, capsys)
    assert "the line is not JSON" in err and "problems.jsonl line 200" in err


def test_rows_without_an_answer(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    rows = own.rows("problems.jsonl")
    own.change(
        "problems.jsonl",
        ({**row, "answer": "" if i % 40 == 7 else row["answer"]} for i, row in enumerate(rows)),
    )
    err = refused(own, capsys)
    assert "5 rows cannot be used" in err and "5 × no answer" in err
    assert err.count("problems.jsonl line ") == 3


def test_solutions_of_other_problems(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    rows = own.rows("solutions.jsonl")
    own.change("solutions.jsonl", ({**r, "question": f"Q: {r['question']}"} for r in rows))
    err = refused(own, capsys)
    assert "200 of 200 solutions find no problem, joined by text" in err
    assert err.count("solutions.jsonl line ") == 3 and "the problems have" in err
    assert "--traces-columns" in err


def test_solutions_that_are_wrong(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    rows = own.rows("solutions.jsonl")
    own.change("solutions.jsonl", ({**r, "solution": "I do not know."} for r in rows))
    err = refused(own, capsys)
    assert "none of 60 sampled solutions is right as it stands" in err
    assert err.count("I do not know.") == 3 and "--mark box" in err
    grpo = [*own.words, "--method", "grpo", "--write-only"]
    assert cli.main(grpo) == 0  # which learns from none


def test_answers_that_the_verifier_cannot_read(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = own.rows("problems.jsonl")
    words = "It depends on what you mean by the sum of these, as one may see."
    own.change("problems.jsonl", ({**r, "answer": words} for r in rows))
    err = refused(own, capsys)
    assert "are no reference answers for the verifier 'math'" in err and "--verifier exact" in err


def test_an_id_twice(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    rows = own.rows("problems.jsonl")
    own.change(
        "problems.jsonl", ({"id": i // 2 if i > 150 else i, **r} for i, r in enumerate(rows))
    )
    err = refused(own, capsys, "--columns", "problem=question,answer=answer,id=id")
    assert "ids stand in several rows" in err


def test_problems_in_characters_that_the_model_lacks(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("problems.jsonl", "solutions.jsonl"):
        own.change(name, ({**r, "question": f"Ω {r['question']}"} for r in own.rows(name)))
    err = refused(own, capsys)
    assert "cannot be written in the model's tokens" in err and "'Ω'" in err


def test_no_model_and_no_method(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*own.words]
    words[2] = str(own.path / "lost")
    assert cli.main([*words, "--write-only"]) == 2
    assert "there is no such model folder" in capsys.readouterr().err
    assert cli.main([*own.words, "--method", "hapoo"]) == 2
    assert "did you mean 'hapo'" in capsys.readouterr().err
    (own.path / "model" / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(own, capsys)


def test_few_problems(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("problems.jsonl", "solutions.jsonl"):
        own.change(name, own.rows(name)[:12])
    assert "12 problems can be read, and a run needs 20" in refused(own, capsys)


# --- a reward of one's own ------------------------------------------------------------------------

REWARD = """
from hapo_core.verify import Verdict

def grade(gold: str, answer: str) -> tuple[Verdict, str]:
    try:
        return (Verdict.CORRECT if float(gold) == float(answer) else Verdict.WRONG), "float"
    except ValueError:
        return Verdict.UNPARSED, "no number"
"""


def test_a_reward_of_ones_own_lies_in_the_projects_folder(
    own: Own, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    words = [*own.words, "--verifier", "rewards:grade", "--write-only"]
    assert cli.main(words) == 2
    assert "there is no module 'rewards'" in capsys.readouterr().err
    Path("rewards.py").write_text(REWARD)
    assert cli.main([*words, "--dir", "p"]) == 2
    assert "mkdir -p p && mv rewards.py p/" in capsys.readouterr().err
    Path("p").mkdir()
    Path("rewards.py").rename("p/rewards.py")
    assert cli.main([*words, "--dir", "p"]) == 0
    assert "60 of 60 sampled are right" in decided(capsys)["solutions"]
    assert load_params(Path("p/params.yaml")).rewards.verifier == "rewards:grade"
    graph = YAML(typ="safe").load(Path("p/dvc.yaml"))
    assert "rewards.py" in graph["stages"]["deps"]["deps"]  # an edit of it is noticed
