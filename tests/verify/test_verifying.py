"""Verification beside generation: order, and thoughts that the prompt opened."""

from __future__ import annotations

from hapo_core.rollout import Finish, Rollout
from hapo_core.verify import Verdict, VerifierPool
from hapo_core.verify.verdict import VerifierSettings
from pipeline.grading.streaming import Verifying


def rollout(sample: int, text: str) -> Rollout:
    return Rollout("p", sample, (1, 2), (-0.1, -0.1), Finish.STOP, text)


def test_an_answer_in_a_thought_that_the_prompt_opened_and_nobody_closed_is_none() -> None:
    texts = [r"so \boxed{2}", r"so \boxed{3}</think> no: \boxed{2}", r"hm</think> \boxed{3}"]
    given = [rollout(k, text) for k, text in enumerate(texts)]
    with VerifierPool(VerifierSettings(workers=2)) as pool:
        for opening, first in (("<think>", Verdict.UNPARSED), ("", Verdict.CORRECT)):
            with Verifying(pool, {"p": "2"}, {"p": "math"}, opening) as verifying:
                for one in given:
                    verifying.put(one)
                found = [one.found.verdict for one in verifying.of(given[::-1])]
            assert found == [Verdict.WRONG, Verdict.CORRECT, first]
