r"""Word problems of several small steps: rewards that are sparse for a small language model.

A story starts with a number of things, each further sentence changes it by one operation, and the
last asks how many there are. The worked solution writes one operation a line and boxes the last
result. Every step is easy; what is hard is to do all of them, whatever their number. Some stories
hold a sentence with a number that has nothing to do with the question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hapo_core.tasks.distinct import distinct

LOWEST, HIGHEST = 2, 150
"""Running results stay in this range."""
DISTRACTED = 0.15
"""Share of the stories with a number that does not count."""

PEOPLE = [
    "Amir", "Anna", "Bela", "Boris", "Carla", "Chen", "Dana", "David", "Elif", "Emma",
    "Farid", "Fiona", "George", "Greta", "Hana", "Hugo", "Ines", "Ivan", "Jana", "Jonas",
    "Kara", "Karim", "Lena", "Luis", "Mara", "Marek", "Nadia", "Nils", "Olga", "Omar",
    "Paula", "Pedro", "Rosa", "Ravi", "Sara", "Simon", "Tara", "Tomas", "Uma", "Viktor",
    "Wendy", "Yusuf", "Zara", "Zeno",
]  # fmt: skip
THINGS = [
    "apples", "badges", "beads", "books", "bottles", "bricks", "buttons", "candles", "cards",
    "coins", "cookies", "cups", "eggs", "erasers", "flowers", "keys", "lemons", "magnets",
    "marbles", "nails", "nuts", "pears", "pencils", "photos", "plates", "plums", "ribbons",
    "rings", "seeds", "shells", "spoons", "stamps", "stickers", "stones", "tickets", "toys",
]  # fmt: skip

OPENINGS = (
    "{who} has {n} {what}.",
    "At first {who} owns {n} {what}.",
    "{who} starts the day with {n} {what}.",
    "There are {n} {what} in the box of {who}.",
    "{who} counts {n} {what} in the morning.",
)
GAINS = (
    "{who} buys {k} more {what}.",
    "{who} finds {k} {what} on the way.",
    "A friend gives {who} {k} {what}.",
    "{who} wins {k} {what} in a game.",
    "{other} brings {k} {what} for {who}.",
    "{k} {what} arrive by mail.",
    "{who} gets {k} {what} as a present.",
)
LOSSES = (
    "{who} loses {k} {what}.",
    "{who} gives {k} {what} to {other}.",
    "{who} sells {k} {what}.",
    "{k} {what} break and are thrown away.",
    "{other} takes {k} of the {what}.",
    "{who} leaves {k} {what} at school.",
    "{who} hands {k} {what} to the neighbours.",
)
DOUBLES = (
    "{who} doubles the number of {what}.",
    "A trade leaves {who} with twice as many {what}.",
    "Now the number of {what} becomes two times as large.",
)
TRIPLES = (
    "{who} triples the number of {what}.",
    "A trade leaves {who} with three times as many {what}.",
)
HALVES = (
    "{who} gives half of the {what} away.",
    "{other} takes half of the {what}.",
    "Half of the {what} get lost.",
)
ASIDES = (
    "{other} is {k} years old.",
    "The bus of {other} has the number {k}.",
    "It is {k} degrees outside.",
    "{other} lives in house number {k}.",
)
QUESTIONS = (
    "How many {what} does {who} have now?",
    "How many {what} are there in the end?",
    "What is the number of {what} now?",
    "How many {what} are left with {who}?",
)


@dataclass(frozen=True)
class Operation:
    """What a sentence does: `words` are its wordings, `symbol` and `operand` what is computed."""

    words: tuple[str, ...]
    symbol: str
    operand: Callable[[np.random.Generator], int]
    share: float

    def result(self, value: int, k: int) -> int | None:
        """The new number, None where the operation does not go on this one."""
        match self.symbol:
            case "+":
                found = value + k
            case "-":
                found = value - k
            case "*":
                found = value * k
            case _:
                found = value // k if value % k == 0 else LOWEST - 1
        return found if LOWEST <= found <= HIGHEST else None


OPERATIONS = (
    Operation(GAINS, "+", lambda rng: int(rng.integers(2, 16)), 0.36),
    Operation(LOSSES, "-", lambda rng: int(rng.integers(2, 16)), 0.36),
    Operation(DOUBLES, "*", lambda rng: 2, 0.12),
    Operation(TRIPLES, "*", lambda rng: 3, 0.06),
    Operation(HALVES, "/", lambda rng: 2, 0.10),
)
SHARES = tuple(operation.share for operation in OPERATIONS)


@dataclass(frozen=True)
class Story:
    """One problem; `lines` are the operations of its solution (`12 + 5 = 17`)."""

    problem: str
    lines: tuple[str, ...]
    answer: str

    @property
    def solution(self) -> str:
        """The worked solution."""
        return "\n".join([*self.lines, f"The answer is \\boxed{{{self.answer}}}."])


def draw_story(rng: np.random.Generator, steps: int) -> Story:
    """One story with `steps` operations."""

    def pick(words: tuple[str, ...] | list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    who, other = (PEOPLE[i] for i in rng.choice(len(PEOPLE), 2, replace=False))
    what, value = pick(THINGS), int(rng.integers(8, 41))

    def say(template: str, **numbers: int) -> str:
        return template.format(who=who, other=other, what=what, **numbers)

    said, lines = [say(pick(OPENINGS), n=value)], list[str]()
    while len(lines) < steps:
        operation = OPERATIONS[int(rng.choice(len(OPERATIONS), p=SHARES))]
        k = operation.operand(rng)
        result = operation.result(value, k)
        if result is None:
            continue
        said.append(say(pick(operation.words), k=k))
        lines.append(f"{value} {operation.symbol} {k} = {result}")
        value = result
    if rng.random() < DISTRACTED:
        said.insert(
            int(rng.integers(1, len(said) + 1)), say(pick(ASIDES), k=int(rng.integers(3, 80)))
        )
    said.append(say(pick(QUESTIONS)))
    return Story(" ".join(said), tuple(lines), str(value))


def distinct_stories(
    count: int,
    seed: int,
    split: str,
    min_steps: int,
    max_steps: int,
    taken: set[str] | None = None,
) -> list[Story]:
    """`count` different stories of one split, none of them in `taken` (see `distinct`).

    Raises:
        ConfigError: the range of steps is empty, or there are not so many different stories.
    """
    steps, stream = (min_steps, max_steps), f"stories/{split}"
    return distinct(draw_story, count, seed, stream, steps, "stories", taken or ())
