"""The rules of curation, each on its own."""

from __future__ import annotations

import pytest
from curate_support import byte_tokenizer

from hapo_core.errors import ConfigError
from pipeline.curate.account import Account, excerpt
from pipeline.curate.benchmarks import Benchmark, BenchmarkRow
from pipeline.curate.problems import Candidate
from pipeline.curate.prompts import PromptMaker
from pipeline.curate.rules.contamination import Index, drop_contaminated
from pipeline.curate.rules.duplicates import Owners, drop_exact, drop_near
from pipeline.curate.rules.gradable import is_proof, shows_options, ungradable
from pipeline.curate.rules.split import assign_splits
from pipeline.curate.rules.traces import TraceMeta, open_tag, rank_traces
from pipeline.curate.text import content_id, exact_key, normalise, numbers, words
from pipeline.flows.observer import Observer


def candidate(index: int, problem: str, answer: str = "1", source: str = "s") -> Candidate:
    return Candidate(index, f"{source}/{index}", problem, answer, source, index + 1, "box")


# --- texts --------------------------------------------------------------------------------------


def test_normalise_keeps_content_and_mends_blanks() -> None:
    assert normalise("a\r\nb \u00a0c\u200b  \n\n\n\nd\n") == "a\nb  c\n\nd"
    assert normalise(normalise("x\t y \u2028")) == normalise("x\t y \u2028")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (r"Compute $\dfrac{1}{2}+x^{4}$.", r"compute \( \frac{1}{2} + x^4 \)"),
        (r"Find $\left(d,7\right)$, and $d$.", r"Find $(d, 7)$ and $d$"),
        (r"Let $x\,=\;1$. What is $x$?", "Let $x=1$.  What is $x$"),
    ],
)
def test_exact_key_sees_through_markup(one: str, two: str) -> None:
    assert exact_key(one) == exact_key(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("roots of $z^4-z^2+1=0$", "roots of $z^4+z^2+1=0$"),
        (r"\frac{1}{23}", r"\frac{12}{3}"),
        ("the point (1,0)", "the point (10)"),
        ("Compute 3 - 2", "Compute 3 + 2"),
    ],
)
def test_exact_key_keeps_operators_and_numbers_apart(one: str, two: str) -> None:
    assert exact_key(one) != exact_key(two)


def test_words_keep_functions_and_drop_markup_and_drawings() -> None:
    text = r"What is $\sin \angle RPS$? [asy] pair R; draw(R--S); [/asy] Give \textbf{one} value"
    assert words(text) == ["what", "is", "sin", "rps", "give", "one", "value"]
    assert numbers("3 apples, 12.5 kg, 3") == ("12.5", "3", "3")
    assert len(content_id("x")) == 16 and excerpt("a\x00\ud800" * 200).isprintable()


# --- gradable -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "answer", "kind", "expected"),
    [
        ("Prove that $\\sqrt 2$ is irrational.", "\\text{QED}", None, "proof"),
        ("Let n > 1. Show that n divides n.", "yes", None, "proof"),
        ("Show that x is real and find its value.", "3", None, None),
        ("What is 2+2?", "proof", None, "no final answer"),
        ("What is 2+2?", "4", "proof", "proof"),
        ("Pick one. $\\textbf{(A)}\\ 1\\qquad\\textbf{(B)}\\ 2\\qquad\\textbf{(C)}\\ 3$", "2", None,
         "multiple choice"),
        ("Pick one:\nA. 1\nB. 2\nC. 3\nD. 4", "B", None, "multiple choice"),
        ("What is it? A) 5 B) 6 C) 7", "C", None, "multiple choice"),
        ("Let f(A) = 1, f(B) = 2, f(C) = 3. Find f(A)+f(B).", "3", None, None),
        (r"Points \( A \), \( B \), \( C \) lie on a line. Find AC.", "3", None, None),
        (r"$(\sin A)\; x+(\sin B)\; y+(\sin C)\; z=0$. Find the angle.", "60", None, None),
        ("(1) Find the value of $a$. (2) Find the range of $b$.", "[0,1)", None, "several parts"),
        ("A function has (i) $f(0)=0$ and (ii) $f(1)=1$. Find $f(2)$.", "2", None, None),
        ("The expression is $(x-a)(x-b)$. What is $a+b$?", "8", None, None),
        ("Solve both.", "(1) 5; (2) 7", None, "several parts"),
        ("Find the length.", "\\frac{1}{2}", None, None),
    ],
)  # fmt: skip
def test_ungradable(problem: str, answer: str, kind: str | None, expected: str | None) -> None:
    assert ungradable(problem, answer, kind) == expected


def test_drawings_are_no_options() -> None:
    assert shows_options("label A: x B: y C: z")
    drawing = 'Find x. [asy] label("$A$",(0,0)); draw(A--B); draw(B--C, A. B. C.); [/asy]'
    assert ungradable(drawing, "4") is None
    assert not is_proof("Show your work and find x.")


# --- duplicates ---------------------------------------------------------------------------------


def test_exact_duplicates_hand_over_traces_only_with_the_same_answer() -> None:
    first, copy, other = (
        candidate(0, "What is $x$?", "2"),
        candidate(1, "what is x", "2"),
        candidate(2, "What is  $x$", "3"),
    )
    account, owners = Account(), Owners()
    kept = drop_exact(account, [first, copy, other], owners)
    assert kept == [first]
    owner = owners.owner_of(kept)
    assert set(owner) == {0, 1} and owner[1] is first
    rule = account.rules[0].as_json()
    assert rule["taken"] == {
        "same problem": 1,
        "same problem, another answer (the first is kept)": 1,
    }
    assert [d.problem_id for d in account.drops] == ["s/1", "s/2"]


_LONG = (
    "A farmer has 12 cows and 7 sheep in the big field behind his house near the river. "
    "Every morning he walks around the whole field and counts all of the animals he can see. "
    "How many animals does the farmer count in total on a morning when none of them is hidden"
)


def test_near_duplicates_need_the_same_numbers_and_answer() -> None:
    account, owners = Account(), Owners()
    pool = [
        candidate(0, _LONG, "19"),
        candidate(1, _LONG + " today?", "19"),
        candidate(2, _LONG.replace("12", "13"), "20"),
        candidate(3, _LONG + " again?", "18"),
        candidate(4, "Something else entirely, with no word in common but a few of them", "19"),
    ]
    kept = drop_near(account, pool, owners, 0.8, Observer("test"))
    assert [c.index for c in kept] == [0, 2, 3, 4]
    assert owners.owner_of(kept)[1] is pool[0]
    switched_off = drop_near(Account(), pool, Owners(), 0.0, Observer("test"))
    assert switched_off == pool


def test_generated_problems_are_never_near_duplicates() -> None:
    pool = [candidate(i, _LONG + " x" * i, "19") for i in range(3)]
    for item in pool:
        item.generated = True
    assert drop_near(Account(), pool, Owners(), 0.8, Observer("test")) == pool


# --- decontamination ----------------------------------------------------------------------------


def benchmark(*problems: str) -> dict[str, Benchmark]:
    rows = [BenchmarkRow(f"b/{i}", p, "1", "box", ()) for i, p in enumerate(problems)]
    return {"b": Benchmark("b", rows, {})}


def test_decontamination_finds_copies_however_they_are_hidden() -> None:
    target = _LONG + "?"
    short = "Compute $1+1$."
    index = Index(benchmark(target, short), 13)
    assert index.hits(target)[0].how == "exact"
    assert index.hits("Note: " + target + " Answer with a number.")[0].how == "13 words"
    assert index.hits("compute  1+1")[0].how == "exact"
    assert index.hits("Compute $1-1$.") == []
    sign = "How many real roots has the polynomial $z^4 - z^2 + 1$ in the plane"
    assert Index(benchmark(sign), 13).hits(sign.replace("-", "+"))[0].how == "same words"
    assert Index(benchmark(target), 0).hits("Note: " + target) == []


def test_stock_phrases_are_kept_and_counted() -> None:
    phrase = "where m and n are relatively prime positive integers and find the value of m n."
    target = " ".join(f"alpha{i}" for i in range(40)) + " " + phrase
    train = candidate(0, " ".join(f"beta{i}" for i in range(40)) + " " + phrase)
    account = Account()
    assert drop_contaminated(account, [train], benchmark(target), 13, 0.5) == [train]
    assert account.rules[0].mended == {"a phrase shared with a benchmark, kept": 1}
    assert account.contamination == []
    strict = Account()
    assert drop_contaminated(strict, [train], benchmark(target), 13, 0.0) == []
    assert strict.contamination[0]["row"] == "b/0"
    assert 0 < float(str(strict.contamination[0]["coverage"])) < 0.5


# --- traces, prompts, split ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>\nso\n</think>\n\\boxed{1}", False, None),
        ("<think>\nso \\boxed{1}", False, "<think>"),
        ("so\n</think>\n\\boxed{1}", True, None),
        ("so it is \\boxed{1}", True, "<think>"),
        ("a human solution \\boxed{1}", False, None),
        ("<|begin_of_thought|>x<|end_of_thought|><|begin_of_solution|>1", False,
         "<|begin_of_solution|>"),
    ],
)  # fmt: skip
def test_open_tag(text: str, opened: bool, expected: str | None) -> None:
    assert open_tag(text, opened) == expected


def test_rank_zero_is_the_shortest_the_first_or_all() -> None:
    usable = {5: [TraceMeta(0, 30), TraceMeta(1, 10), TraceMeta(3, 10)]}
    assert rank_traces(usable, "shortest") == {(5, 1): 0, (5, 3): 1, (5, 0): 2}
    assert rank_traces(usable, "first") == {(5, 0): 0, (5, 1): 1, (5, 3): 2}
    assert rank_traces(usable, "all") == {(5, 0): 0, (5, 1): 0, (5, 3): 0}


def test_prompts_are_the_chat_template_with_suffix_and_system() -> None:
    tokenizer = byte_tokenizer()
    maker = PromptMaker(tokenizer, suffix="\nBox it.", system="Be brief.")
    text = tokenizer.decode(maker.prompts(["What is 1+1?"])[0])
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is 1+1?\nBox it.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = maker.responses(["so \\boxed{2}", ""])
    assert ids[0][-1] == tokenizer.eos_token_id and list(ids[1]) == [tokenizer.eos_token_id]
    assert tokenizer.decode(ids[0][:-1]) == "so \\boxed{2}"
    assert maker.text_fault("x<|im_end|>y") == "contains the control token <|im_end|>"


def test_a_template_that_opens_the_thought_takes_the_tag_off_the_trace() -> None:
    maker = PromptMaker(byte_tokenizer("<think>\n"))
    assert maker.opens_thought
    assert maker.response_text("<think>\nso\n</think>1") == "so\n</think>1"
    assert PromptMaker(byte_tokenizer()).response_text("<think>\nso") == "<think>\nso"


def test_a_tokenizer_without_a_template_is_refused() -> None:
    from copy import deepcopy

    bare = deepcopy(byte_tokenizer())
    bare.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        PromptMaker(bare)


def test_the_split_is_stratified_and_independent_of_order_and_other_sources() -> None:
    def make() -> list[Candidate]:
        a = [candidate(i, f"a{i}", source="a") for i in range(100)]
        return a + [candidate(100 + i, f"b{i}", source="b") for i in range(20)]

    pool, reverse, alone = make(), make()[::-1], make()[:100]
    assert assign_splits(pool, 0.1, seed=3) == {"train": 108, "validation": 12}
    assign_splits(reverse, 0.1, seed=3)
    assign_splits(alone, 0.1, seed=3)
    chosen = {c.problem_id for c in pool if c.split == "validation"}
    assert sum(c.startswith("a/") for c in chosen) == 10
    assert chosen == {c.problem_id for c in reverse if c.split == "validation"}
    assert {c for c in chosen if c.startswith("a/")} == {
        c.problem_id for c in alone if c.split == "validation"
    }
    other = make()
    assign_splits(other, 0.1, seed=4)
    assert chosen != {c.problem_id for c in other if c.split == "validation"}
