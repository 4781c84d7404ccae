"""The samples page: self-contained HTML, filtered and sorted in the browser without a server."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts import atomic_write_text
from pipeline.artifacts.places import EVALUATIONS
from pipeline.config import Params
from pipeline.samples.select import (
    Sample,
    choice_of_round,
    of_evaluation,
    of_round,
    read_problems,
    rollout_files,
    shortened,
    spread,
)
from pipeline.samples.verdicts import with_rules
from pipeline.show.pages import page_environment, page_styles

PAGE = Path("reports/samples.html")
ROUNDS, PROMPTS, RESPONSES, PAIRS, LONGEST = 8, 3, 16, 24, 4000
"""How much the page holds, whatever the run: rounds, prompts a round, responses of a prompt,
problems shown at start and end, characters of a text."""


def write_page(params: Params, root: Path = Path(), out: Path = PAGE) -> Path:
    """Choose, verify once more for the rule, render.

    Raises:
        DataError: there are neither rounds nor evaluations.
    """
    training = training_samples(params, root)
    pairs = start_and_end(params, root)
    ruled = with_rules([*training, *(s for pair in pairs for s in pair)], params)
    whole = [shortened(s, LONGEST) for s in ruled]
    training, sides = whole[: len(training)], iter(whole[len(training) :])
    pairs = list(zip(sides, sides, strict=True))
    text = (
        page_environment(autoescape=True)
        .get_template("samples.html.j2")
        .render(
            title=f"Samples: {params.profile}, {params.method}, seed {params.seed}",
            training=training,
            pairs=pairs,
            rounds=list(dict.fromkeys(s.round for s in training)),
            verdicts=sorted({s.verdict for s in training}),
            styles=page_styles(),
        )
    )
    atomic_write_text(root / out, text)
    return root / out


def training_samples(params: Params, root: Path) -> list[Sample]:
    """Groups of a few prompts of a few rounds; none for a run without rollouts."""
    problems = read_problems(root)
    files = rollout_files(params, root)
    return [
        sample
        for number in spread(list(files), ROUNDS)
        for sample in choice_of_round(
            list(of_round(files[number], problems, number)), PROMPTS, RESPONSES
        )
    ]


def start_and_end(params: Params, root: Path) -> list[tuple[Sample, Sample]]:
    """The first response of the policy before the first round and of the last one to the same
    problems: what became right first, then what became wrong."""
    ends = [root / EVALUATIONS / name for name in (params.start, "final")]
    pairs: list[tuple[Sample, Sample]] = []
    for benchmark in params.evaluate.benchmarks:
        if not all((folder / f"{benchmark}.parquet").is_file() for folder in ends):
            continue  # the run is not that far yet
        start, end = (
            {s.prompt_id: s for s in of_evaluation(root, folder.name, benchmark) if s.sample == 0}
            for folder in ends
        )
        both = [(start[i], end[i]) for i in start if i in end]
        both.sort(key=lambda pair: (pair[0].verdict == pair[1].verdict, pair[1].verdict))
        pairs += both[: max(2, PAIRS // len(params.evaluate.benchmarks))]
    return pairs[:PAIRS]
