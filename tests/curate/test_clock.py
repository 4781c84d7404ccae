"""Prompts do not depend on the day: templates that read the clock or draw, such tokenizers."""

from __future__ import annotations

import json
import shutil
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import transformers.utils.chat_template_utils as chat
from curate_support import CHAT, byte_tokenizer
from report_run import SMALL, make_run
from tokenizers import Tokenizer, models

from hapo_core.errors import ConfigError, DataError
from pipeline.artifacts import read_json, write_manifest
from pipeline.build.prompting import reads_clock
from pipeline.compare.pair import pair
from pipeline.config import parse_section
from pipeline.config.data import Curate
from pipeline.curate.prompts import PromptMaker
from pipeline.evaluate.templates import Template
from pipeline.measure.model import day_of

NOW = "Today is {{ strftime_now('%d %b %Y') }}. "
LLAMA = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}Today: {{ date_string }}\n"
)


class Tomorrow(datetime):
    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime.now() + timedelta(days=400)


@pytest.mark.parametrize("said", [NOW, LLAMA])
def test_a_template_that_reads_the_clock(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer(said)
    assert reads_clock(tokenizer) and not reads_clock(byte_tokenizer())
    today = PromptMaker(tokenizer).prompts(["1+1", "2"])
    monkeypatch.setattr(chat, "datetime", Tomorrow)
    later = PromptMaker(tokenizer).prompts(["1+1", "2"])
    assert [list(a) for a in today] == [list(a) for a in later]
    assert "01 Jan 2025" in tokenizer.decode(later[0])
    other = PromptMaker(tokenizer, date="2031-05-09").prompts(["1+1"])
    assert "09 May 2031" in tokenizer.decode(other[0])
    plain = tokenizer.apply_chat_template([{"role": "user", "content": "1"}], tokenize=False)
    assert "01 Jan 2025" not in plain  # transformers alone still reads the clock


def test_the_date_is_told(tmp_path: Path) -> None:
    told = Template("curate", date="2031-05-09").describe()
    assert "date: 2031-05-09" in told and "date" not in Template("curate").describe()
    given = {
        "sources": {"a": {"kind": "chains", "count": 1, "min_steps": 1, "max_steps": 1}},
        "benchmarks": {"b": {"kind": "chains", "count": 1, "min_steps": 1, "max_steps": 1}},
        "max_trace_tokens": 8,
    }
    assert parse_section(Curate, given, "here").prompt_date == "2025-01-01"
    for wrong in ("yesterday", "2031-13-01", "20310509"):
        with pytest.raises(ConfigError, match="prompt_date"):
            parse_section(Curate, given | {"prompt_date": wrong}, "here")
    with pytest.raises(ConfigError, match="--date"):
        day_of("yesterday")


@pytest.mark.parametrize(
    "chance",
    [
        "{{ ['a', 'b'] | random }}",
        "{{ lipsum(1) }}",
        "{{ [['a', 'b']] | map('random') | first }}",
        "{% filter random %}ab{% endfilter %}",
        "{% set l = lipsum %}{{ l(n=1) }}",
    ],
)
def test_a_template_that_draws(chance: str) -> None:
    with pytest.raises(ConfigError, match="draws by chance"):
        PromptMaker(byte_tokenizer(chance))


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("{{ raise_exception }}", "address in memory"),
        ("{{ joiner() }}", "writes"),
        ("{{ messages[0].items }}", "writes"),
        ("{{ strftime_now }}", "writes"),
        ("{{ [['a', 'b']] | map('ran' ~ 'dom') | first }}", "something else every time"),
    ],
)
def test_a_template_that_writes_what_another_process_would_not(said: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        PromptMaker(byte_tokenizer(said))


def test_the_time_zone_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for zone in ("UTC", "Asia/Tokyo", "America/Lima"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        tokenizer = byte_tokenizer("{{ strftime_now('%s %%s %d %Z') }}")
        found.add(tokenizer.decode(PromptMaker(tokenizer).prompts(["1"])[0]))
    monkeypatch.delenv("TZ")
    time.tzset()
    assert len(found) == 1 and "1735689600 %s 01" in found.pop()


def test_a_tokenizer_that_draws() -> None:
    """BPE dropout: some merges are left out by chance, at every call."""
    tokenizer = byte_tokenizer("drawn ")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["dropout"] = 0.5
    steady = type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token="<|im_end|>",
        chat_template=CHAT,
    )
    with pytest.raises(ConfigError, match=r"dropout in tokenizer\.json"):
        PromptMaker(steady)
    assert isinstance(steady.backend_tokenizer.model, models.BPE)


@pytest.mark.parametrize("key", ["prompt_template", "prompts_sha256"])
def test_pair_refuses_other_prompts(key: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run", SMALL)
    a = tmp_path / "run/artifacts/evaluation/final"
    b = tmp_path / "b"
    metrics = read_json(a / "metrics.json")
    facts = ("kind", "require_box", "unevaluated", "timeout_seconds", "math_verify")
    metrics["verifier"] = dict.fromkeys(facts, 1)
    for entry in metrics["benchmarks"].values():
        more = ("temperature", "top_p", "max_tokens", "n", "k", "problems_sha256")
        entry |= {name: entry.get(name, 1) for name in more}
        entry |= {"prompt_template": "chat", "prompts_sha256": "0" * 64}
    write(a, metrics)
    shutil.copytree(a, b)
    assert pair(a, b)
    metrics = read_json(b / "metrics.json")
    for entry in metrics["benchmarks"].values():
        entry[key] = "another"
    write(b, metrics)
    with pytest.raises(DataError, match="the prompt differs") as caught:
        pair(a, b)
    assert "--any-template" in str(caught.value)
    assert pair(a, b, any_template=True)


def write(folder: Path, metrics: object) -> None:
    (folder / "metrics.json").write_text(json.dumps(metrics))
    manifest = read_json(folder / "manifest.json")
    (folder / "manifest.json").unlink()
    write_manifest(folder, "evaluation", manifest["facts"])
