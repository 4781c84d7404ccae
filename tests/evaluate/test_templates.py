"""Chat templates that evaluation meets."""

from __future__ import annotations

from curate_support import byte_tokenizer

from hapo_core.rollout import Prompt
from pipeline.grading.benchmark import Benchmark
from pipeline.grading.jobs import opened_thought


def test_a_template_that_opens_a_thought_is_known() -> None:
    for extra, opening in (("<think>\n", "<think>"), ("", "")):
        tokenizer = byte_tokenizer(extra)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "1+1"}], add_generation_prompt=True, tokenize=True,
            return_dict=False,
        )  # fmt: skip
        benchmark = Benchmark("b", (Prompt("b/1", tuple(text)),), {"b/1": "2"}, {"b/1": "math"})
        assert opened_thought(tokenizer, benchmark.prompts) == opening
