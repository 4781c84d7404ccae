"""Files as others bring them: what is read, what is refused, and remedies that work as printed."""

from __future__ import annotations

import csv
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from own import Own, make_own

from hapo_core.errors import ConfigError, DataError
from pipeline.curate.prompts import PromptMaker
from pipeline.start.columns import first_rows
from pipeline.start.decide import _check_tokens, _longest
from pipeline.start.fit import Given, fit
from pipeline.start.measured import apart_from, measured_source
from pipeline.start.refuse import settled

Rows = list[dict[str, object]]


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return make_own(tmp_path / "files", 40)


def given(own: Own, **more: Any) -> Given:
    return Given(
        **{"data": own.path / "problems.jsonl", "traces": own.path / "solutions.jsonl", **more}
    )


def refused(asked: Given) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        fit(asked)
    return str(caught.value)


def _wrapped(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps({"version": 1, "data": rows}))


def _lines(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _python(path: Path, rows: Rows) -> None:
    path.write_text("".join(repr(row) + "\n" for row in rows))


def _tabs(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def _headless(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(row.values() for row in rows)


@pytest.mark.parametrize(
    ("name", "write", "result"),
    [
        ("a.json", lambda p, rows: p.write_text(json.dumps(rows, indent=1)), "converted.jsonl"),
        ("b.jsonl", lambda p, rows: p.write_text(json.dumps(rows)), "converted.jsonl"),
        ("c.json", _wrapped, "converted.jsonl"),
        ("d.json", _lines, "d.jsonl"),
        ("e.jsonl", _python, "converted.jsonl"),
        ("f.tsv", _tabs, "converted.jsonl"),
        ("g.jsonl.gz", _lines, "g.jsonl"),
        ("h.csv", _headless, "h.csv"),
    ],
)
def test_the_command_that_is_told_makes_the_file_one_that_is_read(
    own: Own, name: str, write: Callable[[Path, Rows], object], result: str
) -> None:
    rows = own.rows("problems.jsonl")
    write(own.path / name, rows)
    err = refused(given(own, data=own.path / name))
    told = re.search(r"(?m)(?:python -c|mv|sed -i) .*$", err)
    assert told, err
    command = re.sub(r"^python", sys.executable, told[0])
    subprocess.run(command, shell=True, check=True, cwd=own.path)
    assert len(fit(given(own, data=own.path / result)).problems) == len(rows)


def test_a_file_that_is_packed_or_elsewhere(own: Own, tmp_path: Path) -> None:
    with gzip.open(own.path / "p.json.gz", "wt") as file:
        file.write("{}")
    for name, said in (
        ("p.json.gz", "no reader for .json.gz"),
        ("p.xlsx", "export the sheet as CSV"),
        ("p.jsonl.zst", "unzstd"),
    ):
        (own.path / name).touch()
        assert said in refused(given(own, data=own.path / name))
    for address, said in (
        ("openai/gsm8k", "hf download openai/gsm8k --repo-type dataset"),
        ("https://example.org/p.jsonl", "download it first"),
    ):
        assert said in refused(given(own, data=Path(address)))
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.json").touch()
    assert f"load_from_disk('{saved}').to_parquet" in refused(given(own, data=saved))


def test_data_as_trl_has_them(own: Own) -> None:
    """Conversational prompts with an answer, and prompts with completions that box it."""
    rows = own.rows("solutions.jsonl")
    answers = [row["answer"] for row in own.rows("problems.jsonl")]
    chats: Rows = [
        {"prompt": [{"role": "user", "content": row["question"]}], "answer": answer}
        for row, answer in zip(rows, answers, strict=True)
    ]
    own.change("problems.jsonl", chats)
    found = fit(given(own, traces=None, method="grpo"))
    assert found.source["adapter"] == "chat" and [p.answer for p in found.problems] == answers
    for completed in (
        [{**c, "completion": [{"role": "assistant", "content": r["solution"]}]}
         for c, r in zip(chats, rows, strict=True)],
        [{"prompt": r["question"], "completion": r["solution"]} for r in rows],
    ):  # fmt: skip
        own.change("problems.jsonl", completed)
        found = fit(given(own, traces=None))
        assert [p.answer for p in found.problems] == answers
        assert found.taught == found.right == len(rows)


def test_files_in_each_others_place(own: Own) -> None:
    places = {"data": own.path / "solutions.jsonl", "traces": own.path / "problems.jsonl"}
    assert "are the two files swapped?" in refused(given(own, **places))


def test_an_adapter_that_is_none_or_reads_nothing(own: Own) -> None:
    err = refused(given(own, adapter="gsm8"))
    assert "there is no adapter 'gsm8'" in err and "did you mean 'gsm8k'" in err
    err = refused(given(own, adapter="gsm8k", traces=None))
    assert "0 problems can be read" in err and "another adapter" in err


def test_why_no_solution_is_right(own: Own) -> None:
    """Answers that are others, a thought that is never closed: with the rows of solutions."""
    rows = own.rows("problems.jsonl")
    answers = [row["answer"] for row in rows]
    own.change(
        "problems.jsonl",
        ({**r, "answer": a} for r, a in zip(rows, answers[1:] + answers[:1], strict=True)),
    )
    err = refused(given(own))
    assert "beside its own problem" in err and err.count("solutions.jsonl line ") == 3
    own.change("problems.jsonl", rows)
    solved = own.rows("solutions.jsonl")
    own.change("solutions.jsonl", ({**r, "solution": f"<think>{r['solution']}"} for r in solved))
    assert "close the thought (</think>)" in refused(given(own))


def test_rows_that_curation_merges_or_drops(own: Own) -> None:
    """A problem twice is held out once; `nan` of a table is no answer."""
    rows = own.rows("problems.jsonl")
    rows[3]["answer"] = "nan"
    own.change("problems.jsonl", [*rows, *rows])
    found = fit(given(own))
    assert len(found.problems) == 39 and len({p.text for p in found.problems}) == 39
    assert any("40 rows repeat a problem" in note for note in found.notes)
    assert any("line 4, 'nan'" in note for note in found.notes)
    with pytest.raises(DataError, match="12 problems can be read"):
        settled(found.problems[:12], Path("x"))


def test_a_file_to_measure_on(own: Own) -> None:
    """It is read as the training file is; what stands in both is not trained on."""
    rows = own.rows("problems.jsonl")
    test = own.path / "t.jsonl"
    _lines(test, [{"q1": r["question"], "q2": r["answer"]} for r in rows[:10]])
    named = {"problem": "q1", "answer": "q2"}
    assert measured_source(test, given(own, columns=named))["columns"] == named
    with pytest.raises(DataError, match="name its columns `problem` and `answer`"):
        measured_source(test, given(own))
    _lines(test, [{"problem": r["question"], "answer": r["answer"]} for r in rows[:10]])
    source = measured_source(test, given(own))
    found = fit(given(own))
    left, (note,) = apart_from(found.problems, source, test)
    assert len(left) == 30 and "10 rows stand in the test file too" in note
    _lines(test, [*({"problem": r["question"], "answer": r["answer"]} for r in rows)])
    with pytest.raises(DataError, match="0 are left to train on"):
        apart_from(found.problems, source, test)
    _lines(test, [{"problem": "1+1", "answer": ""}])
    with pytest.raises(DataError, match="1 row cannot be used"):
        apart_from(found.problems, source, test)


def test_solutions_that_the_model_cannot_write(own: Own) -> None:
    from pipeline.models import load_tokenizer_of

    maker = PromptMaker(load_tokenizer_of(own.path / "model"))
    end = maker.tokenizer.eos_token
    for what, text, said in (
        ("solutions", f"1+1{end}", "take these tokens out"),
        ("problems", "1 Ω 2", "take these characters"),
    ):
        texts = [(f"x.jsonl line {n}", text) for n in range(1, 5)]
        with pytest.raises(DataError, match=f"4 of 4 {what} cannot be written") as caught:
            _check_tokens(maker, texts, maker.responses([t for _, t in texts]), what)
        assert said in str(caught.value) and str(caught.value).count("x.jsonl line") == 3


def test_one_solution_of_a_books_length_does_not_set_the_budget() -> None:
    usual = sorted([50, 60, 70] * 19 + [61, 62])
    assert _longest([*usual, 21_000]) == 70
    assert _longest([*usual, 90]) == 90


def test_folders_and_first_rows(own: Own) -> None:
    folder = own.path / "folder"
    folder.mkdir()
    (folder / "notes.md").touch()
    with pytest.raises(DataError, match="put files there that end in"):
        first_rows(folder)
    (folder / "train.json").write_text("[]")
    with pytest.raises(DataError, match="made rows by"):
        first_rows(folder)


def test_models_of_another_kind(own: Own) -> None:
    from pipeline.start.decide import _refuse_other_kinds, model_folder

    config = cast(Any, SimpleNamespace(architectures=["BertForMaskedLM"]))
    with pytest.raises(DataError, match="no causal language model"):
        _refuse_other_kinds(config, own.path)
    for name, said in (("model.safetensors", f"--model {own.path / 'model'}"), ("x.gguf", "gguf_")):
        (own.path / "model" / name).touch()
        with pytest.raises(DataError, match="a folder is wanted") as caught:
            model_folder(str(own.path / "model" / name))
        assert said in str(caught.value)
