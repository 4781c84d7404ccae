"""Rows that are conversations: what the user asked is the problem, what came back is the trace."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.curate.sources.cells import answer_text, key_text, sequence
from pipeline.curate.sources.marks import BOX, HASHES, STATED, parse_mark
from pipeline.curate.sources.record import Parts, RawTrace, Row, RowFault

COLUMNS = ("messages", "conversations", "conversation", "prompt")
"""The last as in TRL's data sets, perhaps with the answer's messages in `completion`."""
ANSWERS = ("answer", "final_answer", "gold", "ground_truth")
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_MARKS = tuple(parse_mark(mark, "adapter chat") for mark in (BOX, HASHES, STATED))


def read_chat(row: Row) -> Parts:
    """One question with its answer, as {role, content} or as {from, value}.

    The reference answer is a column of its own, or what the assistant's message marks: by a box, by
    #### or by a closing sentence ("The answer is 72."), and that becomes a box as in other sources.
    System messages are left out: ours is `curate.system_prompt`.

    Raises:
        RowFault: several turns (a problem is one question), a message that is no text, no answer.
    """
    name = next((c for c in COLUMNS if row.get(c) is not None), COLUMNS[0])
    items = list(sequence(row, name))
    if name == "prompt" and isinstance(row.get("completion"), list | tuple):
        items += sequence(row, "completion")
    turns = [_turn(item, name) for item in items]
    asked = [said for role, said in turns if role == "user"]
    told = [said for role, said in turns if role == "assistant"]
    if len(asked) != 1 or len(told) > 1:
        raise RowFault(
            "the conversation is not one question and one answer",
            f"{len(asked)} messages of the user, {len(told)} of the assistant",
            "keep the rows of one question, or write problem and trace to columns of their own",
        )
    answer = next((text for c in ANSWERS if (text := answer_text(row.get(c), c)).strip()), "")
    mark = next((m for m in _MARKS if told and m.find(told[0])), _MARKS[0])
    answer = answer or (mark.find(told[0]) if told else "")
    if not answer:
        raise RowFault("no marked answer in the conversation", told[0][-80:] if told else "")
    traces = tuple(RawTrace(mark.boxed(solution)) for solution in told)
    return Parts(asked[0], answer, traces, key_text(row.get("id")))


def _turn(item: object, name: str) -> tuple[str, str]:
    if not isinstance(item, Mapping):
        raise RowFault(f"column {name!r} holds no messages", f"{item!r:.80}")
    role = str(item.get("role", item.get("from"))).casefold()
    said = item.get("content", item.get("value"))
    if not isinstance(said, str):
        raise RowFault(f"column {name!r} holds no message text", f"{said!r:.80}")
    return _ROLES.get(role, role), said
