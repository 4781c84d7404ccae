"""One small adapter a data set: which column is what.

Columns were looked up in the dataset cards and in the files of `shared/data`; docs/data.md has the
table. An adapter turns one row into `Parts` or raises `RowFault`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hapo_core.verify.extract import boxed
from pipeline.curate.sources.cells import (
    answer_text,
    boxed_answer,
    key_text,
    last_answer,
    message,
    sequence,
    text,
)
from pipeline.curate.sources.chat import COLUMNS, read_chat
from pipeline.curate.sources.record import Parts, RawTrace, Row, RowFault

Reader = Callable[[Row], Parts]


@dataclass(frozen=True)
class Adapter:
    """How rows of one data set are read.

    Args:
        about: the data set, and its name on the hub.
        columns: groups of column names; a row needs one of each group.
        read: one row to its parts.
        strict: rows without what they need are errors (your own files), not counted drops.
        somewhere: columns that single lines of JSON may leave out, but not all of them.
    """

    about: str
    columns: tuple[tuple[str, ...], ...]
    read: Reader
    strict: bool = False
    somewhere: tuple[str, ...] = ()


# --- training sets ------------------------------------------------------------------------------

_ENDING = re.compile(
    r"\s*(?:Let's think step by step and output the final answer within \\boxed\{\}\.?"
    r"|(?:Please )?reason step by step,? and put your final answer within \\boxed\{\}\.?)\s*$",
    re.IGNORECASE,
)
_ASKS_FOR_ALL = re.compile(
    r"separated by (?:commas|semicolons)|\b(?:all|both) (?:the )?(?:possible |integer |real )?"
    r"(?:values|solutions|roots|points|numbers|polynomials)|find all|enter all|list all",
    re.IGNORECASE,
)
_CALCULATION = re.compile(r"<<[^<>]*>>")
_HASHES = re.compile(r"\n?####[ \t]*([^\n]*)\s*$")


def without_instruction(problem: str) -> tuple[str, tuple[str, ...]]:
    """A prompt without the data set's own instruction at its end (ours is `prompt_suffix`)."""
    bare = _ENDING.sub("", problem)
    return bare, ("the source's instruction taken off",) if bare != problem else ()


def gsm8k_solution(solution: str) -> str:
    """A human GSM8K solution in the form that the reward reads: calculator notes like
    `<<48/2=24>>` are taken out, the ending `#### 24` becomes a last line `\\boxed{24}`."""
    bare = _CALCULATION.sub("", solution)
    return _HASHES.sub(lambda m: f"\n\\boxed{{{_plain_number(m.group(1))}}}", bare)


def _plain_number(answer: str) -> str:
    return answer.strip().replace(",", "")


def _gsm8k(row: Row) -> Parts:
    solution = text(row, "answer")
    answer = _plain_number(last_answer(solution, "####"))
    if not answer:
        raise RowFault("no #### answer in the solution", solution[-80:])
    return Parts(text(row, "question"), answer, (RawTrace(gsm8k_solution(solution)),))


def _math(row: Row) -> Parts:
    solution = text(row, "solution")
    answer = answer_text(row.get("answer"))
    answer = answer if answer.strip() else boxed_answer(solution)
    key = key_text(row.get("unique_id"))
    return Parts(text(row, "problem"), answer, (RawTrace(solution),) if solution else (), key)


def _math_train(row: Row) -> Parts:
    """MATH: some answer columns hold only the last of several boxed answers, although the problem
    asks for all of them; the solution's list is the gold then."""
    parts = _math(row)
    whole = last_answer(parts.traces[0].text) if parts.traces else ""
    boxes = [content.strip() for _, _, content in boxed(parts.traces[0].text)] if whole else []
    last_only = bool(boxes) and parts.answer.strip() == boxes[-1] != whole
    if not last_only or not _ASKS_FOR_ALL.search(parts.problem):
        return parts
    note = "the answer column holds only the last of several boxed answers"
    return replace(parts, answer=whole, tolerated=(note,))


def _numina_cot(row: Row) -> Parts:
    solution = text(row, "solution", "response")
    problem = text(row, "problem", "instruction")
    return Parts(problem, boxed_answer(solution), (RawTrace(solution),))


def _numina_kind(row: Row) -> str | None:
    said = (text(row, "question_type") or "").strip().casefold()
    return {"proof": "proof", "mcq": "choice"}.get(said)


def _numina_refusal(row: Row) -> str | None:
    for name in ("problem_is_valid", "solution_is_valid"):
        if name in row and row[name] is not None and str(row[name]).strip().casefold() != "yes":
            return f"{name} is {str(row[name]).strip() or 'empty'}"
    return "synthetic" if row.get("synthetic") is True else None


def _numina_15(row: Row) -> Parts:
    solution = text(row, "solution")
    return Parts(
        text(row, "problem"),
        answer_text(row.get("answer")),
        (RawTrace(solution),) if solution.strip() else (),
        kind=_numina_kind(row),
        refusal=_numina_refusal(row),
    )


def _openr1_220k(row: Row) -> Parts:
    generations = sequence(row, "generations")
    complete = _flags(row, "is_reasoning_complete", len(generations))
    finish = _flags(row, "finish_reasons", len(generations))
    right = _flags(row, "correctness_math_verify", len(generations))
    judged = _flags(row, "correctness_llama", len(generations))
    traces = []
    for i, generation in enumerate(generations):
        if not isinstance(generation, str):
            raise RowFault("a generation is no text", f"{generation!r:.80}")
        label = right[i] if isinstance(right[i], bool) else judged[i]
        cut = complete[i] is False or finish[i] == "length"
        traces.append(RawTrace(generation, cut, label if isinstance(label, bool) else None))
    return Parts(
        text(row, "problem"),
        answer_text(row.get("answer")),
        tuple(traces),
        key_text(row.get("uuid")),
        kind=_numina_kind(row),
        refusal=_numina_refusal(row),
    )


def _flags(row: Row, name: str, count: int) -> list[object]:
    """A list beside `generations`, padded with None: some revisions leave it out or shorter."""
    values = sequence(row, name)[:count]
    return [*values, *[None] * (count - len(values))]


def _verl(row: Row) -> Parts:
    problem, tolerated = without_instruction(message(row, "prompt", "user"))
    reward = row.get("reward_model")
    if not isinstance(reward, Mapping):
        raise RowFault("column 'reward_model' is no mapping", f"{reward!r:.80}")
    gold = reward.get("ground_truth")
    if isinstance(gold, list) and len(gold) == 1:
        gold = gold[0]
    target = message(row, "target", "assistant")
    return Parts(
        problem,
        answer_text(gold, "reward_model.ground_truth"),
        (RawTrace(target),) if target.strip() else (),
        tolerated=tolerated,
    )


def _big_math(row: Row) -> Parts:
    if "reward_model" in row:
        return _verl(row)
    return Parts(text(row, "problem"), answer_text(row.get("answer")))


# --- benchmarks ---------------------------------------------------------------------------------


def _contest(row: Row) -> Parts:
    """AIME and AMC in the forms that are around: id/problem|question|prompt/answer(/solution)."""
    problem, tolerated = without_instruction(text(row, "problem", "question", "prompt"))
    solution = text(row, "solution")
    key = key_text(row.get("id"))
    traces = (RawTrace(solution),) if solution.strip() else ()
    return Parts(problem, answer_text(row.get("answer")), traces, key, tolerated=tolerated)


def _olympiad(row: Row) -> Parts:
    golds = sequence(row, "final_answer")
    if not golds:
        raise RowFault("no final_answer")
    context = text(row, "context")
    problem = text(row, "question")
    return Parts(
        f"{context}\n\n{problem}" if context.strip() else problem,
        answer_text(golds[0], "final_answer"),
        tuple(RawTrace(s) for s in sequence(row, "solution") if isinstance(s, str)),
        key_text(row.get("id")),
        tolerated=("several values in final_answer, the first is taken",) if golds[1:] else (),
    )


def _minerva(row: Row) -> Parts:
    key, problem = key_text(row.get("idx")), text(row, "problem", "question")
    if "solution" not in row:  # math-ai/minervamath: question and answer only
        return Parts(problem, answer_text(row.get("answer")), (), key)
    solution = text(row, "solution")
    return Parts(problem, boxed_answer(solution), (RawTrace(solution),), key)


ADAPTERS: dict[str, Adapter] = {
    "gsm8k": Adapter(
        "GSM8K, human solutions (openai/gsm8k, config main)",
        (("question",), ("answer",)),
        _gsm8k,
    ),
    "math": Adapter(
        "MATH train, or MATH-500 (HuggingFaceH4/MATH-500)",
        (("problem",), ("solution", "answer")),
        _math_train,
    ),
    "numinamath_cot": Adapter(
        "NuminaMath-CoT (AI-MO/NuminaMath-CoT); also with columns instruction/response",
        (("problem", "instruction"), ("solution", "response")),
        _numina_cot,
    ),
    "numinamath_1.5": Adapter(
        "NuminaMath 1.5 (AI-MO/NuminaMath-1.5)",
        (("problem",), ("answer",), ("question_type",)),
        _numina_15,
    ),
    "openr1_220k": Adapter(
        "OpenR1-Math-220k, up to four R1 traces (open-r1/OpenR1-Math-220k)",
        (("problem",), ("answer",), ("generations",)),
        _openr1_220k,
    ),
    "openr1_46k": Adapter(
        "OpenR1-Math-46k-8192 (Elliott/Openr1-Math-46k-8192)",
        (("prompt",), ("target",), ("reward_model",)),
        _verl,
    ),
    "big_math": Adapter(
        "Big-Math (SynthLabsAI/Big-Math-RL-Verified), also in verl's layout",
        (("problem", "prompt"), ("answer", "reward_model")),
        _big_math,
    ),
    "verl": Adapter(
        "any file in verl's layout: prompt, reward_model, and perhaps target",
        (("prompt",), ("reward_model",)),
        _verl,
    ),
    "chat": Adapter(
        "conversations of one question and one answer, as {role, content} or {from, value}",
        (COLUMNS,),
        read_chat,
    ),
    "aime": Adapter(
        "AIME24 (HuggingFaceH4/aime_2024), AIME25 (math-ai/aime25)",
        (("problem", "question", "prompt"), ("answer",)),
        _contest,
    ),
    "amc23": Adapter(
        "AMC23 (math-ai/amc23); answers are floats there",
        (("problem", "question"), ("answer",)),
        _contest,
    ),
    "math500": Adapter(
        "MATH-500 (HuggingFaceH4/MATH-500)",
        (("problem",), ("answer",)),
        _math,
    ),
    "olympiadbench": Adapter(
        "OlympiadBench, English text-only maths (Hothan/OlympiadBench, OE_TO_maths_en_COMP)",
        (("question",), ("final_answer",)),
        _olympiad,
    ),
    "minerva": Adapter(
        "Minerva (OCW) problems (math-ai/minervamath)",
        (("problem", "question"), ("solution", "answer")),
        _minerva,
    ),
}
