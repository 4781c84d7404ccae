"""Runs what is missing of a comparison, waits, and writes the page."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hapo_core.errors import ConfigError, HapoError
from pipeline.artifacts import atomic_write_text
from pipeline.artifacts.revisions import fetch, need_git
from pipeline.compare.cells import (
    VARIANTS,
    Budget,
    Cell,
    Changes,
    Plain,
    code_fingerprint,
    named_settings,
    overrides,
    parse_changes,
    plan,
    read_plain,
)
from pipeline.compare.collect import Result, files_of, read_result, targets_of
from pipeline.compare.page import Comparison, score_table, write_page
from pipeline.compare.queue import Queue, State
from pipeline.compare.runs import runs_csv
from pipeline.compare.summary import rows_of
from pipeline.config import PARAMS, parse_params
from pipeline.config.nearest import nearest
from pipeline.dependencies.lock import watched
from pipeline.dependencies.watch import keep_watch
from pipeline.show.evaluation import aligned
from pipeline.system.locks import compare_lock
from pipeline.system.project import find_root

REFERENCES = ("grpo", "sft_then_rl")
"""Of the paired tests, where --against names none; those that are among the settings."""
WAITING = ("Queued", "Preparing", "Running")
POLL_SECONDS, SLOW_POLL_SECONDS = 2.0, 30.0
"""How often git is asked for finished cells, and at the longest DVC for the state of its queue."""


def compare(options: argparse.Namespace) -> int:
    """`hapo compare`: exit status 1 if a cell failed.

    Raises:
        HapoError: a bad request or configuration, or DVC refuses.
    """
    root = find_root()
    need_git(root)
    raw = read_plain(root / PARAMS)
    budget = Budget.parse(options.budget) if options.budget else None
    cells = _cells(options, root, raw, budget)
    queue, failed = Queue(root), list[str]()
    if not options.show:
        with compare_lock(root, _say):  # what one of two queues, the other finds there
            _submit(queue, raw, cells, options.jobs)
        if options.detach:
            print("queued; `dvc queue status` shows it, the same command without --detach waits")
            return 0
        failed = _wait(queue, cells, options.jobs)
    results = _results(root, queue, cells)
    for name in failed:
        print(f"failed: {name}\n  `dvc queue logs {name}` says why; the same command tries again")
    if not results:
        raise HapoError("no cell is finished", where="hapo compare")
    found = _comparison(options, raw, budget, cells, results)
    out = options.out or root / "reports/comparison"
    with compare_lock(root, _say):  # all files of one page
        page = write_page(found, out)
        atomic_write_text(out / "runs.csv", runs_csv(results))
    for name in found.rows:
        table = score_table(found, name)
        print("\n".join(["", table.title, *aligned([table.headers, *table.rows])]))
    print(f"\npage    {page.absolute()}")
    return 1 if failed else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _cells(
    options: argparse.Namespace, root: Path, raw: Plain, budget: Budget | None
) -> list[Cell]:
    methods = list(VARIANTS) if options.methods == ["all"] else options.methods
    settings = named_settings(methods, options.cells, options.cell)
    if len(set(options.seeds)) < len(options.seeds):
        raise ConfigError("a seed is named twice", where="--seeds", remedy="name each once")
    for label in options.against or ():
        if label not in settings:
            raise ConfigError(
                f"no setting {label!r}{nearest(label, list(settings))}",
                where="--against",
                remedy="one of " + ", ".join(settings),
            )
    common: dict[str, object] = {}
    for text in options.set:
        common |= parse_changes(text)
    joined: dict[str, Changes] = {label: {**common, **own} for label, own in settings.items()}
    return plan(raw, joined, options.seeds, budget, code_fingerprint(raw, root))


# --- running ------------------------------------------------------------------------------------


def _submit(queue: Queue, raw: Plain, cells: Sequence[Cell], jobs: int) -> None:
    """Queue the cells that are neither finished nor waiting, and see that workers are there."""
    finished, state = queue.finished(), queue.state()
    if not state.workers:
        lost = [c.name for c in cells if state.tasks.get(c.name) == "Running"]
        queue.give_up(lost)  # their worker was killed
        state = queue.state() if lost else state
    wanted = [c for c in cells if c.name not in finished]
    queue.forget([c.name for c in wanted if state.tasks.get(c.name) in ("Failed", "Success")])
    new = [c for c in wanted if state.tasks.get(c.name) not in ("Queued", "Running")]
    print(f"{len(cells)} cells: {len(cells) - len(wanted)} finished, {len(new)} new", flush=True)
    params = parse_params(raw)
    keep_watch(params, queue.root)
    files = watched(params, queue.root)
    for cell in new:
        # With all that these depend on; no report.
        stages = [f"evaluate@{target}" for target in targets_of(cell)]
        queue.add(cell.name, overrides(raw, cell.raw), stages, files)
    if wanted:
        # Cells share the starting policy: one worker makes it, the others then find it cached.
        staff(queue, state, jobs if len(wanted) < len(cells) else 1)


def staff(queue: Queue, state: State, jobs: int) -> None:
    """DVC starts those that do not answer once more, under the same name: it is asked when all that
    are alive answer."""
    if jobs > state.workers == state.answering:
        queue.start(jobs)


def _wait(queue: Queue, cells: Sequence[Cell], jobs: int) -> list[str]:
    """Wait until no cell is queued or running; the names of those that failed."""
    mine = {c.name for c in cells}
    shown, seen, pause, asked = (-1, -1), -1, POLL_SECONDS, 0.0
    try:
        while True:
            finished = mine & queue.finished().keys()
            if len(finished) != seen:
                seen, pause, asked = len(finished), POLL_SECONDS, 0.0
            if time.monotonic() - asked >= pause:  # asking DVC costs a second of a core
                state, asked = queue.state(), time.monotonic()
                pause = min(2 * pause, SLOW_POLL_SECONDS)
                going = [n for n in mine - finished if state.tasks.get(n) in WAITING]
                counts = (len(finished), len(_named(state, mine, "Running")))
                if counts != shown:
                    shown = counts
                    print(f"finished {counts[0]}/{len(mine)}, running {counts[1]}", flush=True)
                if not going:
                    # Looked at after the queue: a cell may have ended between the two questions.
                    ended = mine & queue.finished().keys()
                    if len(ended) != len(finished):
                        print(f"finished {len(ended)}/{len(mine)}", flush=True)
                    return sorted(mine - ended)
                staff(queue, state, min(jobs, len(going)) if finished else 1)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print(
            "\nthe workers go on; `dvc queue stop --kill` stops them. The same command waits "
            "again, and continues with what is missing",
            file=sys.stderr,
        )
        raise


def _named(state: State, mine: set[str], wanted: str) -> list[str]:
    return [name for name in state.named(wanted) if name in mine]


# --- the page -----------------------------------------------------------------------------------


def _results(root: Path, queue: Queue, cells: Sequence[Cell]) -> list[Result]:
    finished = queue.finished()
    return [
        read_result(cell, fetch(finished[cell.name], files_of(cell), root))
        for cell in cells
        if cell.name in finished
    ]


def _comparison(
    options: argparse.Namespace,
    raw: Plain,
    budget: Budget | None,
    cells: Sequence[Cell],
    results: Sequence[Result],
) -> Comparison:
    done = {r.experiment for r in results}
    against = options.against or REFERENCES
    asked = [name for name in raw["evaluate"]["benchmarks"] if name in results[0].protocols]
    names = list(dict.fromkeys([*asked, *results[0].protocols]))
    probe = raw.get("train", {}).get("probe_benchmark")
    names.sort(key=lambda name: name != probe)  # stable: what training watched leads
    labels = list(dict.fromkeys(c.label for c in cells))
    rounds = sum(int(s["rounds"]) for s in raw["segments"].values())
    return Comparison(
        rows={name: rows_of(results, name, against) for name in names},
        references=tuple(name for name in against if name in labels),
        seeds=tuple(options.seeds),
        facts={
            "profile": raw["profile"],
            "budget": str(budget or Budget("rounds", rounds)),
            "protocols": results[0].protocols,
            "experiments": {f"{r.label}/{r.seed}": r.experiment for r in results},
            "settings": {label: _settings(cells, label, raw) for label in labels},
        },
        missing=tuple(f"{c.label} (seed {c.seed})" for c in cells if c.name not in done),
        command=shlex.join(["hapo", *sys.argv[1:]]),
    )


def _settings(cells: Sequence[Cell], label: str, raw: Plain) -> list[str]:
    """How a setting differs from params.yaml, in DVC's words, its seed left out."""
    cell = next(c for c in cells if c.label == label)
    return [text for text in overrides(raw, cell.raw) if not text.startswith("seed=")]
