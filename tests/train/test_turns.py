"""Chat templates as people write them: how turns begin and end, and what a template may do."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from curate_support import byte_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from hapo_core.errors import ConfigError, DataError
from hapo_core.model_folder import end_ids
from hapo_core.turns import turn_end
from pipeline.curate.prompts import PromptMaker

GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
ALWAYS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}<|assistant|>"
GLM = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final"
    "{% endif %}<|message|>{{ m.content }}{% if m.role == 'assistant' and loop.last %}<|return|>"
    "{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
UNASKED = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
CONTROLS = [
    *("<start_of_turn>", "<end_of_turn>", "<|end|>", "<|assistant|>", "<|user|>", "[gMASK]"),
    *("<sop>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>"),
]


def talking(template: Any, eos: str = "<|endoftext|>") -> Any:
    tokenizer = deepcopy(byte_tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": CONTROLS})
    tokenizer.eos_token = eos
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "eos", "ends", "begins"),
    [
        (GEMMA, "<|endoftext|>", "<end_of_turn>", ""),
        (PHI, "<|endoftext|>", "<|end|>", ""),
        (ALWAYS, "<|endoftext|>", "<|endoftext|>", ""),  # was <|assistant|>
        (GLM, "<|endoftext|>", "<|endoftext|>", ""),
        (HARMONY, "<|return|>", "<|return|>", "<|channel|>final<|message|>"),
        (UNASKED, "<|endoftext|>", "<|end|>", "<|assistant|>"),
    ],
    ids=["gemma", "phi", "opens the next answer", "glm", "harmony", "no generation prompt"],
)
def test_traces_begin_and_end_as_turns_do(template: str, eos: str, ends: str, begins: str) -> None:
    tokenizer = talking(template, eos)
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == ends
    maker = PromptMaker(tokenizer)
    assert maker.opening == begins
    assert tokenizer.decode(maker.responses(["so 4"])[0]) == f"{begins}so 4{ends}"
    talk = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "so 4"}]
    assert f"{begins}so 4" in tokenizer.apply_chat_template(talk, tokenize=False)


def test_glms_turns_end_with_what_opens_the_next(tmp_path: Path) -> None:
    tokenizer = talking(GLM)
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    tokenizer.save_pretrained(tmp_path)
    described = tmp_path / "generation_config.json"
    for ids, ends in (([tokenizer.eos_token_id], "<|endoftext|>"), ([0, user], "<|user|>")):
        described.write_text(json.dumps({"eos_token_id": ids}))
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        assert loaded.convert_ids_to_tokens(turn_end(loaded)) == ends


@pytest.mark.parametrize(
    "change",
    ["m.content | e", "m.content | tojson", "m.content[:40]", "m.content.split('\\n')[0]"],
)
def test_a_template_that_changes_the_problem_is_refused(change: str) -> None:
    body = "{% for m in messages %}<|user|>{{ WHAT }}<|end|>{% endfor %}"
    PromptMaker(talking(body.replace("WHAT", "m.content | trim")), suffix="\nBox it.")
    with pytest.raises(ConfigError, match="problem"):
        PromptMaker(talking(body.replace("WHAT", change)), suffix="\nBox it.")


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 // 0 }}{{ messages[0].content }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for m in messages %}{{ m.content }",
        "{{ messages[0].content.a.b }}",
    ],
)
def test_whatever_a_template_raises_is_told(template: str) -> None:
    with pytest.raises(ConfigError, match="cannot write a prompt"):
        PromptMaker(talking(template))


def test_several_templates_need_a_default() -> None:
    PromptMaker(talking({"default": PHI, "tool_use": PHI}))
    with pytest.raises(ConfigError, match=r"2 chat templates \(rag, tool_use\), and none is the"):
        PromptMaker(talking({"rag": PHI, "tool_use": PHI}))


def test_a_control_token_that_the_tokenizer_does_not_name_is_one() -> None:
    """As Llama-3's <|eot_id|>: in a problem or a trace it would end the turn."""
    tokenizer = deepcopy(byte_tokenizer())
    tokenizer.eos_token = "<|endoftext|>"
    assert "<|im_start|>" not in tokenizer.all_special_tokens
    fault = PromptMaker(tokenizer).text_fault("a <|im_start|> b")
    assert fault == "contains the control token <|im_start|>"


def test_a_prompt_without_template_goes_on() -> None:
    """Tokenizers with `add_eos_token` end every text: the prompt would be over."""
    tokenizer = deepcopy(byte_tokenizer())
    end = tokenizer.eos_token_id
    (plain,) = PromptMaker(tokenizer, chat=False).prompts(["1 + 1 ="])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[(tokenizer.eos_token, end)]
    )
    assert tokenizer("1").input_ids[-1] == end
    (closed,) = PromptMaker(tokenizer, chat=False).prompts(["1 + 1 ="])
    assert closed.tolist() == plain.tolist()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{bad", "no JSON"),
        ("", "no JSON"),
        ("null", "not an object"),
        ('{"eos_token_id": [2, null]}', "no list of ids"),
        ('{"eos_token_id": [[2]]}', "no list of ids"),
        ('{"eos_token_id": 2.0}', "no list of ids"),
        ('{"eos_token_id": "22"}', "no list of ids"),
        ('{"eos_token_id": true}', "no list of ids"),
    ],
)
def test_end_tokens_that_are_none_are_told(tmp_path: Path, text: str, what: str) -> None:
    assert end_ids(tmp_path) == ()
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(DataError, match=what):
        end_ids(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 3], "foo": 1}')
    assert end_ids(tmp_path) == (2, 3)
