"""What is wrong is said at once: arguments and data are read before anything heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from own import Own, make_own

SLOW = ("torch", "transformers", "prefect", "dvc", "pandas", "datasets")
ASK = """
import json, sys
from pipeline import cli
codes = []
for words in json.loads(sys.argv[1]):
    try:
        codes.append(cli.main(words))
    except SystemExit as left:
        codes.append(left.code)
print("CODES", json.dumps([codes, [m for m in {slow} if m in sys.modules]]))
"""


def asked(commands: list[list[str]], folder: Path) -> tuple[list[int], list[str], str]:
    """Exit codes of the commands in one process, the heavy modules that it has then, stderr."""
    words = [sys.executable, "-c", ASK.replace("{slow}", repr(SLOW)), json.dumps(commands)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    (line,) = (x for x in done.stdout.splitlines() if x.startswith("CODES "))
    codes, loaded = json.loads(line.removeprefix("CODES "))
    return codes, loaded, done.stderr


def test_train_refuses_before_it_imports(tmp_path: Path) -> None:
    own = make_own(tmp_path / "files", 30)
    here = tmp_path / "here"
    here.mkdir()
    model, data = str(own.path / "model"), str(own.path / "problems.jsonl")
    rows = own.rows("problems.jsonl")
    own.change("solutions.jsonl", ({"q1": r["question"]} for r in rows))
    half = Own(tmp_path)
    half.change("unanswered.jsonl", ({"question": r["question"], "answer": ""} for r in rows))
    start = ["train", "--model", model, "--data"]
    codes, loaded, err = asked(
        [
            ["train", "--model", str(tmp_path / "lost"), "--data", data],
            [*start, str(tmp_path / "lost.jsonl")],
            [*start, data, "--method", "hapoo"],
            [*start, data, "-S", "update.learing_rate=1e-5"],
            [*start, data, "--test", str(tmp_path / "lost.jsonl")],
            [*start, data],  # without solutions
            [*start, str(own.path / "solutions.jsonl")],  # no columns that anybody knows
            [*start, str(tmp_path / "unanswered.jsonl")],
        ],
        here,
    )
    assert codes == [2] * 8, err
    assert loaded == [], err
    for said in (
        "there is no such model folder",
        "there is no such file or folder",
        "did you mean 'hapo'",
        "update.learing_rate: unknown key; did you mean 'learning_rate'",
        "method hapo learns from solutions",
        "no column looks like the problem",
        "30 rows cannot be used",
    ):
        assert said in err, said
    assert list(here.iterdir()) == []


def test_help_and_a_look_import_little(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n' * 3)
    codes, loaded, err = asked(
        [["--help"], ["train", "--help"], ["data", "peek", "rows.jsonl"], ["samples"], ["status"]],
        tmp_path,
    )
    assert codes == [0, 0, 0, 2, 2], err
    assert loaded in ([], ["pandas"]), err  # the table of rounds is read with it
