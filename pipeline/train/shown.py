"""The policy, shown a trace, as a teacher that scores the policy's own rollouts (METHOD 9)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hapo_core.errors import HapoError
from hapo_core.groups import PlannedGroup, Trace
from hapo_core.objective import Objective, RowKind
from hapo_core.rollout import Prompt, Sampling
from hapo_core.rollout.protocol import Engine
from hapo_core.rows import scored_rows
from hapo_core.stats.intervals import paired_test
from hapo_core.update import Updater
from hapo_core.verify import VerifierPool
from pipeline.artifacts import atomic_write_json, remove
from pipeline.artifacts.seals import Tell, broken, write_seal
from pipeline.build.engine import training_sampling
from pipeline.build.prompting import at_date
from pipeline.config import Params
from pipeline.grading.benchmark import respond
from pipeline.train.sampling import usable_traces
from pipeline.train.trainset import TrainSet

GAIN = "gain.json"
_SEAL = "gain.seal.json"
GAIN_ROUND = (1 << 31) - 2
"""A round that no training reaches: its draws are not those of the first rounds."""


@dataclass
class ShownTraces:
    """Prompts that hold a problem and its trace, and what the policy gives rollouts under them.

    `tokens`: what scoring cost since it was last asked (`take_tokens`), prompts included.
    """

    params: Params
    data: TrainSet
    tokenizer: PreTrainedTokenizerBase
    tokens: int = 0
    _clock: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._clock = at_date(self.tokenizer, self.params.curate.prompt_date)

    def prompt(self, prompt_id: str, trace: Trace) -> Prompt:
        """The teacher's prompt: the template in the problem's place, in the chat format."""
        curate = self.params.curate
        values = {"problem": self.data.problems[prompt_id], "solution": trace.text}
        template = self.params.teacher.distill.template
        text = re.sub(r"\{(problem|solution)\}", lambda found: values[found[1]], template)
        messages = [{"role": "user", "content": text + curate.prompt_suffix}]
        if curate.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": curate.system_prompt})
        ids = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False, **self._clock
        )
        return Prompt(prompt_id, tuple(int(i) for i in ids))  # type: ignore[arg-type]

    def all_prompts(self) -> Iterator[Prompt]:
        """Of every usable trace of every problem."""
        for prompt_id in self.data.prompt_ids:
            for trace in usable_traces(self.data, prompt_id, self.params.rollout.max_tokens):
                yield self.prompt(prompt_id, trace)

    def scored(
        self, planned: Sequence[PlannedGroup], updater: Updater, objective: Objective
    ) -> list[PlannedGroup]:
        """The groups, every row of distillation with log pi_T of its tokens: the present policy
        under the teacher's prompt, the tokens unchanged, in one pass shared by the ranks."""
        asked = []
        for p in planned:
            rows = [row for row in p.rows if row.kind is RowKind.DISTILL]
            if rows:
                assert p.group.trace is not None  # a method asks for scores where there is one
                shown = self.prompt(p.group.prompt.prompt_id, p.group.trace).token_ids
                asked += [replace(row, prompt_ids=shown) for row in rows]
        self.tokens += sum(len(row.prompt_ids) + len(row.response_ids) for row in asked)
        scores = iter(updater.score(asked, objective) if asked else ())
        found = []
        for p in planned:
            count = sum(row.kind is RowKind.DISTILL for row in p.rows)
            found.append(scored_rows(p, [next(scores).tolist() for _ in range(count)]))
        return found

    def take_tokens(self) -> int:
        """What scoring cost since the last call."""
        tokens, self.tokens = self.tokens, 0
        return tokens

    def measure_gain(self, engine: Engine, pool: VerifierPool, scratch: Path) -> str:
        """What showing the trace gains the policy, measured, written and sealed; a sentence.

        Raises:
            HapoError: it gains nothing, and `without_gain` is `refuse`.
        """
        settings, budget = self.params.teacher.distill, self.params.rollout.max_tokens
        pairs = [
            (i, traces[0])
            for i in sorted(self.data.prompt_ids)
            if (traces := usable_traces(self.data, i, budget))
        ][: settings.gain_problems]
        plain = self._success(engine, pool, [self.data.prompts[i] for i, _ in pairs])
        shown = self._success(engine, pool, [self.prompt(i, trace) for i, trace in pairs])
        test = paired_test(plain, shown, seed=self.params.seed, label="gain")
        low, high = test.ci
        said = (
            f"shown the trace the policy solves {100 * sum(shown) / len(shown):.1f} %, without it "
            f"{100 * sum(plain) / len(plain):.1f} % of {len(pairs)} problems ("
            f"{100 * test.difference:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f})"
        )
        if low <= 0 and settings.without_gain == "refuse":
            raise HapoError(
                f"the teacher would know no more than the policy: {said}",
                where="teacher.distill",
                remedy="another template, a stronger starting policy, or `teacher.use: inject`; "
                "`teacher.distill.without_gain: go_on` trains all the same",
            )
        atomic_write_json(
            scratch / "out" / GAIN,
            {
                "problems": len(pairs),
                "samples": settings.gain_samples,
                "without": sum(plain) / len(plain),
                "with": sum(shown) / len(shown),
                "difference": test.difference,
                "ci": [low, high],
            },
        )
        write_seal(scratch / _SEAL, [scratch / "out" / GAIN], scratch)
        return said

    def _success(
        self, engine: Engine, pool: VerifierPool, prompts: Sequence[Prompt]
    ) -> list[float]:
        """Success rate of each prompt; what could not be graded counts as not right."""
        base = training_sampling(self.params)
        samples = self.params.teacher.distill.gain_samples
        found = respond(
            engine,
            pool,
            prompts,
            self.data.answers,
            Sampling(samples, base.temperature, base.top_p, base.max_tokens),
            self.params.seed,
            rewards=self.data.rewards,
            opening=self.data.opening,
            round_index=GAIN_ROUND,
        )
        right = dict.fromkeys((p.prompt_id for p in prompts), 0.0)
        for one in found:
            right[one.rollout.prompt_id] += (one.reward or 0.0) / samples
        return list(right.values())


def gain_problem(scratch: Path) -> str | None:
    """What is wrong with the gain that a first segment measured; None where it is as written."""
    return broken(scratch / _SEAL, scratch, [scratch / "out" / GAIN])


def drop_states_without_gain(scratch: Path, tell: Tell) -> None:
    """The gain is the starting policy's: where its file is lost, the first segment starts anew."""
    problem = gain_problem(scratch)
    if problem is not None and any((scratch / "states").glob("round-*")):
        tell(f"{problem}: the segment starts anew")
        remove(scratch / "states")
