"""Models whose tokenizer, template or positions do not fit: right, or refused before it runs."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from curate_support import byte_tokenizer as shared_tokenizer
from small import PARAMS, clone
from tiny_families import tiny_family
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hapo_core.errors import ConfigError, DataError
from hapo_core.fit import has_position_table, positions, refuse_ids, refuse_length, token_rows
from hapo_core.groups import Trace
from hapo_core.policy import load_policy
from hapo_core.rollout import Prompt, Sampling
from hapo_core.rollout.transformers_engine import HFEngine, stop_ids
from hapo_core.turns import turn_end
from pipeline import cli
from pipeline.curate.prompts import PromptMaker
from pipeline.train.trainset import TrainSet, refuse_misfit


def byte_tokenizer() -> Any:
    return deepcopy(shared_tokenizer())  # tests change it


def llama(rows: int, context: int = 256) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=context,
        )
    ).eval()  # fmt: skip


def saved(path: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, **curate: Any) -> None:
    path = tmp_path / "project"
    clone(path)
    raw = yaml.safe_load(PARAMS)
    raw["base"] = {"kind": "pretrained", "path": str(model)}
    raw["curate"] |= curate
    (path / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    monkeypatch.chdir(path)


def dry_run(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.main(["run", "--dry-run"])
    return code, capsys.readouterr().out


def other_end() -> Any:
    """Turns end with <|im_end|>, the tokenizer says <|endoftext|> (Qwen's base models)."""
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    return tokenizer


# --- the end of a turn --------------------------------------------------------------------------


def test_responses_end_as_the_models_turns_do() -> None:
    tokenizer = other_end()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token_id != end == turn_end(tokenizer)
    maker = PromptMaker(tokenizer)
    assert maker.responses(["4"])[0][-1] == end
    assert stop_ids(llama(len(tokenizer)), tokenizer) >= {end, tokenizer.eos_token_id}
    plain = PromptMaker(tokenizer, chat=False)
    assert plain.responses(["4"])[0][-1] == tokenizer.eos_token_id


def test_a_rollout_stops_where_the_turn_ends() -> None:
    tokenizer = other_end()
    model = llama(len(tokenizer))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[end] = 1e3 * model.model.norm.weight.sign()
        model.lm_head.weight[end + 1] = -model.lm_head.weight[end]
    sampling = Sampling(2, 1.0, 1.0, 6)
    ids = [int(i) for i in PromptMaker(tokenizer).prompts(["2 + 2?"])[0]]
    rollouts = list(HFEngine(model, tokenizer).generate([Prompt("a", tuple(ids))], sampling, 0, 0))
    ended = [r for r in rollouts if end in r.token_ids]
    assert all(r.token_ids.index(end) == len(r.token_ids) - 1 for r in ended)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        ("{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}", "<|endoftext|>"),
        ("{% for m in messages %}{{ m['content'] }} <|im_end|>\n{% endfor %}", "<|im_end|>"),
        ("{% for m in messages %}U: {{ m['content'] }}\n{% endfor %}", "<|endoftext|>"),
        ("{{ messages[0]['content'] }}", "<|endoftext|>"),
        ("{% if messages|length > 1 %}{{ raise_exception('no') }}{% endif %}x", "<|endoftext|>"),
    ],
)
def test_the_end_of_a_turn_is_what_the_template_writes(template: str, ends: str) -> None:
    tokenizer = other_end()
    tokenizer.chat_template = template
    assert turn_end(tokenizer) == tokenizer.convert_tokens_to_ids(ends)


def test_the_dry_run_says_how_responses_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = other_end()
    project(tmp_path, monkeypatch, saved(tmp_path / "m", llama(len(tokenizer)), tokenizer))
    code, said = dry_run(capsys)
    assert code == 0, said
    assert "responses end with <|im_end|>, as its turns do" in said


# --- templates ----------------------------------------------------------------------------------

RAISES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
)
RAISES += "{% endif %}{{ messages[0]['content'] }}<|im_end|>"
SILENT = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize("template", [RAISES, SILENT], ids=["raises", "leaves it out"])
def test_a_template_without_a_system_role_is_refused_where_one_is_set(
    template: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    PromptMaker(tokenizer)
    with pytest.raises(ConfigError, match="system message") as found:
        PromptMaker(tokenizer, system="Be brief.")
    assert "prompt_suffix" in str(found.value.remedy)
    model = saved(tmp_path / "m", llama(len(tokenizer)), tokenizer)
    project(tmp_path, monkeypatch, model, system_prompt="Be brief.")
    code, said = dry_run(capsys)
    assert code == 1
    assert "PROBLEM prompts: the chat template" in said and "system message" in said


def test_a_template_that_drops_the_problem_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "hello<|im_end|>"
    with pytest.raises(ConfigError, match="leaves the problem out"):
        PromptMaker(tokenizer)


# --- token ids ----------------------------------------------------------------------------------


def test_a_tokenizer_larger_than_the_embedding_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = byte_tokenizer()
    model = saved(tmp_path / "m", llama(len(tokenizer) - 20), tokenizer)
    with pytest.raises(DataError, match="20 tokens have no row"):
        load_policy(model)
    project(tmp_path, monkeypatch, model)
    code, said = dry_run(capsys)
    assert code == 1
    assert "PROBLEM tokenizer: the tokenizer writes ids up to" in said


def test_an_added_pad_token_beyond_the_table_is_no_fault(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == rows
    model, loaded = load_policy(saved(tmp_path / "m", llama(rows), tokenizer))
    prompts = [Prompt("a", (5, 6, 7)), Prompt("b", (5, 6))]
    assert len(list(HFEngine(model, loaded).generate(prompts, Sampling(2, 1.0, 1.0, 4), 0, 0))) == 4


def test_an_added_end_token_beyond_the_table_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"eos_token": "<|stop|>"})
    with pytest.raises(DataError, match="have no row, such as '<|stop|>'".replace("|", r"\|")):
        load_policy(saved(tmp_path / "m", llama(rows), tokenizer))


def test_data_of_another_tokenizer_is_refused_by_the_stage() -> None:
    model = llama(50, context=32)
    data = TrainSet({"p": Prompt("p", (1, 2, 49))}, {"p": "1"}, {"p": ()}, {"p": "exact"})
    refuse_misfit(data, model, 29)
    with pytest.raises(DataError, match="33 tokens, the model has 32 positions"):
        refuse_misfit(data, model, 30)
    with pytest.raises(DataError, match="token id 50") as found:
        refuse_misfit(replace(data, prompts={"p": Prompt("p", (1, 50))}), model, 4)
    assert found.value.where == "prompt of p"
    with pytest.raises(DataError, match="token id 77") as found:
        refuse_misfit(replace(data, traces={"p": (Trace("t", (3, 77), ""),)}), model, 4)
    assert found.value.where == "trace of p"
    refuse_ids(model, [("empty", ())])
    with pytest.raises(DataError):
        refuse_ids(model, [("negative", (-1,))])


# --- positions ----------------------------------------------------------------------------------


def test_positions_that_are_too_few_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = byte_tokenizer()
    small = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=40,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(small)
    assert positions(model.config) == 40 and token_rows(model) == len(tokenizer)
    assert has_position_table(model) and not has_position_table(llama(50, context=40))
    assert has_position_table(tiny_family("opt")) and not has_position_table(tiny_family("qwen2"))
    refuse_length(model, 40, "here")
    with pytest.raises(DataError, match="41 tokens, the model has 40 positions"):
        refuse_length(model, 41, "here")
    project(tmp_path, monkeypatch, saved(tmp_path / "m", model, tokenizer))
    code, said = dry_run(capsys)
    assert code == 1
    assert "PROBLEM context: 88 tokens of prompt and response, the model takes 40" in said
    assert "PROBLEM benchmark heldout: responses of 48 tokens, the model takes 40" in said
