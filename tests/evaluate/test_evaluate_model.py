"""`hapo evaluate` and `hapo pair` on a real (tiny) policy that was taught some problems."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm
from curate_support import shared_data
from tiny import tiny_policy

from hapo_core.errors import ConfigError, DataError, HapoError
from hapo_core.policy import save_policy
from hapo_core.tasks.careless import SupervisedSpec, encode, supervised_optimizer, supervised_step
from hapo_core.tasks.chains import Chain, distinct_chains
from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer
from pipeline.artifacts import check_manifest, read_json
from pipeline.artifacts.tables import BENCHMARK, GENERATIONS, read_frame
from pipeline.cli import build_parser, main
from pipeline.compare.pair import pair
from pipeline.flows.observer import Observer
from pipeline.measure.model import ModelEvaluation, folder_name
from pipeline.measure.score import Scoring
from pipeline.system.locks import folder_lock

REPO = Path(__file__).parents[2]
TAUGHT, UNSEEN = 3, 3


def chains() -> list[Chain]:
    return distinct_chains(TAUGHT + UNSEEN, 0, "evaluate", 1, 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`taught` answers the first problems by heart (greedily), `fresh` answers nothing."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, 48, 2, 2, 0)
    save_policy(*tiny_policy(1), folder / "fresh")
    rows = [encode(tokenizer, c.problem, c.solution()) for c in chains()[:TAUGHT]]
    spec = SupervisedSpec(150, TAUGHT, 1e-2, 5)
    optimizer = supervised_optimizer(model, spec)
    losses = [supervised_step(model, optimizer, rows, spec.rate(i)) for i in range(spec.steps)]
    assert losses[-1] < 0.05
    save_policy(model, tokenizer, folder / "taught")
    return {name: folder / name for name in ("taught", "fresh")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_problems(tmp_path / "own.jsonl")
    return tmp_path


def write_problems(path: Path, **changed: str) -> None:
    lines = [
        json.dumps({"id": f"c{i}", "problem": c.problem, "answer": str(c.answer), **changed})
        for i, c in enumerate(chains())
    ]
    path.write_text("\n".join(lines) + "\n")


def run(model: Path | str, *words: str, bare: bool = True) -> dict[str, Any]:
    given = ["evaluate", "--model", str(model), "--threads", "1", *words]
    if bare:
        given += ["--template", "bare"]
    return ModelEvaluation(build_parser().parse_args(given), Observer("evaluate")).run()


OWN = ("--benchmark", "own=own.jsonl", "--max-tokens", "24", "--max-rows", "4")
EXACT = (*OWN, "--verifier", "exact")  # needs no worker processes


def test_what_was_taught_is_solved_and_everything_is_kept(
    here: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(models["taught"], *OWN, "--k", "2", "--temperature", "0", "--out", "e")
    entry = metrics["benchmarks"]["own"]
    assert entry["n"] == TAUGHT + UNSEEN and entry["k"] == 2
    assert entry["verdicts"]["correct"] == 2 * TAUGHT and entry["avg"] == 0.5
    assert entry["pass_k"] == entry["maj_k"] == 0.5  # greedy samples are equal
    assert 0 <= entry["ci"][0] < 0.5 < entry["ci"][1] <= 1
    check_manifest(here / "e", "evaluation")
    frame = read_frame(here / "e/own.parquet", GENERATIONS)
    assert frame["problem_id"].tolist() == [f"own/c{i}" for i in range(6) for _ in range(2)]
    assert frame["sample"].tolist() == [0, 1] * 6
    first = frame.iloc[0]
    assert first.verdict == "correct" and first.extracted == str(chains()[0].answer)
    assert first.text == chains()[0].solution()
    problems = read_frame(here / "e/problems/own.parquet", BENCHMARK)
    assert problems["answer"].tolist() == [str(c.answer) for c in chains()]
    printed = capsys.readouterr().out
    header = next(line for line in printed.splitlines() if line.startswith("benchmark "))
    for name in ("avg@k", "interval", "pass@k", "maj@k", "n", "k", "temperature", "top_p"):
        assert name in header.split()
    assert "max tokens" in header and "truncated" in header and "unparsed" in header
    assert "own sample 12/12" in printed and "tok/s" in printed
    assert "prompt: chat template, user: problem + ''" in printed


def test_the_same_again_generates_nothing_and_another_is_refused(
    here: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(models["fresh"], *EXACT, "--k", "1", "--out", "e")
    before = (here / "e/own.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert run(models["fresh"], *EXACT, "--k", "1", "--out", "e") == first
    assert "nothing is generated" in capsys.readouterr().out
    assert (here / "e/own.parquet").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="something else than this evaluation"):
        run(models["fresh"], *EXACT, "--k", "2", "--out", "e")
    with pytest.raises(DataError, match="something else than this evaluation"):
        run(models["taught"], *EXACT, "--k", "1", "--out", "e")
    (here / "own.parquet").mkdir()
    (here / "own.parquet/x").touch()
    with pytest.raises(DataError, match="something else"):
        run(models["fresh"], *EXACT, "--out", "own.parquet")


def test_two_at_once_into_one_folder(here: Path, models: dict[str, Path]) -> None:
    """The second would remove the tables that the first is writing."""
    (here / ".e.unfinished").mkdir()
    with folder_lock(here / ".e.unfinished", ""), pytest.raises(HapoError, match="evaluates into"):
        run(models["fresh"], *EXACT, "--k", "1", "--out", "e")


def test_a_killed_evaluation_continues_to_the_same_bytes(
    here: Path, models: dict[str, Path], warmth: dict[str, str]
) -> None:
    """kill -9 in the middle, by the command itself; then the same command again."""
    source = shared_data() / "bench/aime24.jsonl"
    words = ["--benchmark", f"aime24={source}", "--k", "2", "--max-tokens", "300"]
    words += ["--verifier", "exact"]
    words += ["--max-rows", "4", "--model", str(models["fresh"]), "--template", "bare"]
    words += ["--threads", "1", "--limit", "12"]
    env = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1", **warmth}
    command = [warm.python(env), "-m", "pipeline.cli", "evaluate", *words, "--out", "killed"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, text=True)
    parts = here / ".killed.unfinished"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(parts.rglob("*.seal.json"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    warm.kill(process)
    process.wait()
    # A table whose seal the kill prevented is made again.
    sealed = [
        p.with_name(p.name.replace(".seal.json", ".parquet")) for p in parts.rglob("*.seal.json")
    ]
    kept = {p: p.stat().st_mtime_ns for p in sealed}
    assert 1 <= len(kept) < 6 and not (here / "killed").exists()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{4 * len(kept)} of 24 are there already" in done.stdout
    assert not parts.exists()
    words = [*words[: words.index("--model")], "--limit", "12"]
    run(models["fresh"], *words, "--out", "whole")
    whole, killed = (check_manifest(here / name)["files"] for name in ("whole", "killed"))
    assert whole["aime24.parquet"] == killed["aime24.parquet"]
    assert whole["metrics.json"] == killed["metrics.json"]


def test_comparison_is_paired_and_refuses_what_differs(here: Path, models: dict[str, Path]) -> None:
    greedy = (*EXACT, "--temperature", "0")
    run(models["fresh"], *greedy, "--out", "a")
    run(models["taught"], *greedy, "--out", "b")
    found = pair(here / "a", here / "b")["own"]
    assert (found.n, found.better, found.worse) == (TAUGHT + UNSEEN, TAUGHT, 0)
    assert found.difference == 0.5
    assert found.p_value == 0.25  # 2 of the 2^3 sign patterns
    run(models["taught"], *greedy, "--k", "2", "--out", "k2")
    with pytest.raises(DataError, match=r"own: the protocol differs \(k 1 against 2\)"):
        pair(here / "a", here / "k2")
    run(models["taught"], *greedy, "--suffix", "=", "--out", "suffix")
    with pytest.raises(DataError, match="the prompt differs"):
        pair(here / "a", here / "suffix")
    assert pair(here / "a", here / "suffix", any_template=True)["own"].n == 6
    run(models["taught"], *greedy, "--limit", "4", "--out", "limit")
    with pytest.raises(DataError, match="the set of problems differs"):
        pair(here / "a", here / "limit")
    run(models["taught"], *greedy, "--out", "no-box", "--no-box")
    with pytest.raises(DataError, match=r"the verifier differs \(require_box True against False"):
        pair(here / "a", here / "no-box")
    write_problems(here / "own.jsonl", answer="7")
    run(models["taught"], *greedy, "--out", "golds")
    with pytest.raises(DataError, match="the set of problems differs"):
        pair(here / "a", here / "golds")
    with pytest.raises(DataError, match="was not evaluated"):
        pair(here / "a", here / "b", names=["aime24"])


def test_answers_that_repeat_the_question_are_another_verifier(
    here: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rewards.unevaluated` is a fact of an evaluation; records from before it count as false."""
    for name in ("a", "b"):
        assert run(models["fresh"], *EXACT, "--out", name)["verifier"]["unevaluated"] is False
    monkeypatch.setattr("pipeline.compare.pair.check_manifest", lambda *_: None)  # changed by hand
    metrics = json.loads((here / "b/metrics.json").read_text("utf-8"))
    del metrics["verifier"]["unevaluated"]
    (here / "b/metrics.json").write_text(json.dumps(metrics), "utf-8")
    assert pair(here / "a", here / "b")["own"].difference == 0
    metrics["verifier"]["unevaluated"] = True
    (here / "b/metrics.json").write_text(json.dumps(metrics), "utf-8")
    with pytest.raises(DataError, match=r"the verifier differs \(unevaluated False against True"):
        pair(here / "a", here / "b")


def test_a_preset_is_measured_by_its_protocol(here: Path, models: dict[str, Path]) -> None:
    given = f"amc23={shared_data() / 'bench/amc23.jsonl'}"
    words = ["--benchmark", given, "--limit", "2", "--max-tokens", "8", "--verifier", "exact"]
    metrics = run(models["fresh"], *words, bare=False)
    entry = metrics["benchmarks"]["amc23"]
    assert (entry["n"], entry["k"], entry["temperature"], entry["top_p"]) == (2, 32, 0.6, 1.0)
    assert entry["max_tokens"] == 8 and "\\boxed" in entry["prompt_template"]
    assert entry["template"] == "boxed" and metrics["notes"][0].startswith("amc23: the first 2")
    assert (here / "evaluations" / folder_name(str(models["fresh"]))).is_dir()


def test_what_was_kept_can_be_graded_and_asked_again(here: Path, models: dict[str, Path]) -> None:
    first = run(models["taught"], *EXACT, "--k", "2", "--temperature", "0", "--out", "e")
    again = ["--benchmark", "own=e/problems/own.parquet", "--verifier", "exact"]
    options = build_parser().parse_args(["score", "e/own.parquet", *again])
    found = Scoring(options, Observer("score")).run()
    entry = first["benchmarks"]["own"]
    assert (found["k"], found["avg"], found["verdicts"]) == (2, 0.5, entry["verdicts"])
    words = [*again, "--max-tokens", "24", "--max-rows", "4", "--k", "2", "--temperature", "0"]
    second = run(models["taught"], *words, "--out", "again")
    assert second["benchmarks"] == first["benchmarks"]
    assert pair(here / "e", here / "again")["own"].difference == 0


def test_a_hub_id_is_found_in_the_cache(
    here: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without network: the cache as the hub's client lays it out."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = here / "hub/models--some--policy"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    shutil.copytree(models["fresh"], cached / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    metrics = run("some/policy", *EXACT, "--limit", "1")
    assert metrics["model"] == {"hub": "some/policy", "commit": commit}
    assert (here / "evaluations/some-policy/metrics.json").is_file()
    with pytest.raises(DataError, match="cannot be fetched"):
        run("some/policy", *EXACT, "--revision", "v2", "--out", "v2")


def test_a_policy_of_a_run_and_its_benchmarks_are_known_by_name(
    here: Path, models: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match="there is no benchmark 'heldout'"):
        run(models["fresh"], "--benchmark", "heldout")
    (here / "params.yaml").write_text((REPO / "params/quickstart.yaml").read_text())
    with pytest.raises(DataError, match="not curated yet"):
        run(models["fresh"], "--benchmark", "heldout")


BAD: list[tuple[str, Callable[[Path], object], str, str]] = [
    (
        "missing column",
        lambda p: p.write_text('{"question": "1+1", "answer": "2"}\n'),
        "no column 'problem'",
        "own.jsonl line 1",
    ),
    (
        "mixed types",
        lambda p: p.write_text(
            '{"problem": "1", "answer": "2"}\n{"problem": ["x"], "answer": "2"}\n'
        ),
        "column 'problem' is no text",
        "own.jsonl line 2",
    ),
    ("empty file", lambda p: p.write_text(""), "the file is empty", "own.jsonl"),
    (
        "null byte",
        lambda p: p.write_text('{"problem": "a\\u0000b", "answer": "2"}\n'),
        "null byte",
        "own.jsonl line 1",
    ),
    (
        "duplicate ids",
        lambda p: p.write_text(
            '{"id": 1, "problem": "a", "answer": "2"}\n{"id": 1, "problem": "b", "answer": "3"}\n'
        ),
        "the id '1' is used twice",
        "own.jsonl line 2",
    ),
    (
        "a gold that does not parse",
        lambda p: p.write_text('{"id": "g", "problem": "a", "answer": "\\\\frac{1}{"}\n'),
        "golds cannot be graded",
        "own/g",
    ),
    (
        "no answer",
        lambda p: p.write_text('{"problem": "a", "answer": null}\n'),
        "no answer",
        "own.jsonl line 1",
    ),
    (
        "not UTF-8",
        lambda p: p.write_bytes(b'{"problem": "\xff", "answer": "2"}\n'),
        "not UTF-8",
        "own.jsonl near line 1",
    ),
]


@pytest.mark.parametrize(("what", "write", "message", "where"), BAD, ids=[b[0] for b in BAD])
def test_bad_benchmarks_are_errors_with_place_and_remedy(
    here: Path,
    models: dict[str, Path],
    what: str,
    write: Callable[[Path], object],
    message: str,
    where: str,
) -> None:
    write(here / "own.jsonl")
    with pytest.raises(HapoError) as caught:
        run(models["fresh"], *OWN)
    assert message in caught.value.what, what
    assert where in str(caught.value.where) and caught.value.remedy
    assert not (here / "evaluations").exists()


def test_a_gold_that_does_not_parse_can_be_kept_and_is_said(
    here: Path, models: dict[str, Path]
) -> None:
    (here / "own.jsonl").write_text(
        '{"id": "g", "problem": "1a+1=?", "answer": "\\\\frac{1}{"}\n'
        '{"id": "h", "problem": "1a+2=?", "answer": "3"}\n'
    )
    metrics = run(models["fresh"], *OWN, "--keep-bad-golds", "--out", "e")
    assert metrics["notes"] == [
        "own: 1 golds cannot be graded (own/g); answers to them count as not correct"
    ]


def test_a_row_of_a_megabyte_is_measured(here: Path, models: dict[str, Path]) -> None:
    row = {"problem": "1a+1=?" * 2, "answer": "2", "note": "x" * 1_000_000}
    (here / "own.jsonl").write_text(json.dumps(row) + "\n")
    metrics = run(models["fresh"], *EXACT, "--out", "e")
    assert metrics["benchmarks"]["own"]["n"] == 1


@pytest.mark.parametrize(
    ("words", "message", "where"),
    [
        (("--model", "nobody/nothing"), "cannot be fetched", "--model: nobody/nothing"),
        (("--model", "no-folder"), "no such model folder", "--model no-folder"),
        (("--model", "."), "config.json is missing", ""),
        (("--top-p", "2"), "top_p", "--benchmark own"),
        (("--template", "chat"), "no template 'chat'", "--template"),
        (("--dtype", "int8"), "dtype", "--dtype"),
        (("--device", "cuda:99"), "cannot be used", "compute.device"),
        (("--benchmark", "own=own.jsonl"), "asked for twice", "--benchmark"),
        (("--benchmark", "math=nowhere.jsonl"), "no such file", "--benchmark math"),
        (("--columns", "problem"), "no FIELD=COLUMN", "--columns"),
        (("--system", "s", "--template", "plain"), "needs the chat template", "--system"),
    ],
)
def test_bad_options_are_errors_with_place(
    here: Path,
    models: dict[str, Path],
    words: tuple[str, ...],
    message: str,
    where: str,
) -> None:
    with pytest.raises(HapoError) as caught:
        run(models["fresh"], *EXACT, *words, bare="--template" not in words)
    assert message in caught.value.what
    assert where in str(caught.value.where) and (caught.value.remedy or "--benchmark" in words)


def test_the_command_says_errors_without_a_traceback(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model", "nobody/nothing", "--benchmark", "own=own.jsonl"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the model cannot be fetched")
    assert "at: --model: nobody/nothing" in said and "remedy:" in said


def test_metrics_are_canonical_json(here: Path, models: dict[str, Path]) -> None:
    metrics = run(models["fresh"], *EXACT, "--out", "e")
    assert read_json(here / "e/metrics.json") == json.loads(json.dumps(metrics))
