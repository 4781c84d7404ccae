"""`hapo train`: from a model and files to a project, or the next rounds of the same one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hapo_core.errors import ConfigError
from pipeline.artifacts import atomic_write_json, atomic_write_text, read_json, record_pace
from pipeline.artifacts.places import expanded
from pipeline.build.teacher import needs_traces
from pipeline.config import PARAMS, load_params, parse_params
from pipeline.config.overrides import refuse_unknown, with_overrides
from pipeline.config.segments import set_segments
from pipeline.config.yaml import round_trip
from pipeline.flows.observer import brief
from pipeline.start.decide import decide, find_machine, find_model, held_out, model_folder
from pipeline.start.fit import Given, fit
from pipeline.start.measured import apart_from, measured_source
from pipeline.start.pace import measure
from pipeline.start.project import make_project, readme_text
from pipeline.start.reward import reward_module
from pipeline.start.write import HELD_OUT, SAMPLES, Plan, decisions, heldout_text, params_text

ASKED = Path(".hapo/train.json")
"""What `hapo train` was asked for when it made the project."""


@dataclass(frozen=True)
class Wanted:
    """A request; paths are absolute in `facts`."""

    given: Given
    model: str
    rounds: int
    seed: int
    test: Path | None = None
    overrides: tuple[str, ...] = ()
    timed: bool = True

    def facts(self) -> dict[str, object]:
        """What makes two requests the same, the number of rounds aside."""
        g = self.given
        folder = expanded(self.model)
        return {
            "model": str(folder.resolve()) if folder.is_dir() else self.model,
            "data": str(g.data.resolve()),
            "traces": str(g.traces.resolve()) if g.traces else None,
            "test": str(self.test.resolve()) if self.test else None,
            "method": g.method,
            "seed": self.seed,
            "adapter": g.adapter,
            "columns": dict(g.columns),
            "traces_columns": dict(g.traces_columns),
            "mark": g.mark,
            "verifier": g.verifier,
            "set": list(self.overrides),
        }


def is_project(folder: Path) -> bool:
    """Whether there is a project in the folder itself."""
    return (folder / "dvc.yaml").is_file() or (folder / PARAMS).is_file()


def go_on(folder: Path, wanted: Wanted) -> list[str]:
    """The same request again: nothing to write, or more rounds.

    Raises:
        ConfigError: the project was made for something else, or has more rounds already.
    """
    if not (folder / ASKED).is_file():
        raise ConfigError(
            "there is a project here that `hapo train` did not make",
            where=str(folder.absolute()),
            remedy="`hapo run` runs it; `hapo train --dir NEW` makes another one",
        )
    made = read_json(folder / ASKED)
    now = json.loads(json.dumps(wanted.facts()))
    other = [k for k in now if made.get(k) != now[k]]
    if other:
        listed = "".join(f"\n  {k}: {made.get(k)} -> {now[k]}" for k in other)
        raise ConfigError(
            f"this project was made for something else{listed}",
            where=str(folder.absolute()),
            remedy="`hapo run -S KEY=VALUE` changes it, `hapo train --dir NEW` makes another one, "
            "`hapo compare --methods hapo grpo` puts methods side by side",
        )
    params = load_params(folder / PARAMS)
    rounds = sum(segment.rounds for segment in params.segments.values())
    if wanted.rounds < rounds:
        raise ConfigError(
            f"the project has {rounds} rounds already",
            where="--rounds",
            remedy=f"--rounds {rounds} goes on with them, a larger number adds to them",
        )
    if wanted.rounds == rounds:
        return [f"project {folder.absolute()}: goes on"]
    last, more = len(params.segments), wanted.rounds - rounds
    set_segments(last + 1, root=folder)
    if load_params(folder / PARAMS).segments[str(last + 1)].rounds != more:
        _resize(folder, str(last + 1), more)
    return [f"project {folder.absolute()}: segment {last + 1} with {more} more rounds"]


def _resize(folder: Path, name: str, rounds: int) -> None:
    text = (folder / PARAMS).read_text(encoding="utf-8")
    changed = with_overrides(text, (f"segments.{name}.rounds={rounds}",), str(folder / PARAMS))
    atomic_write_text(folder / PARAMS, changed)


def start(folder: Path, wanted: Wanted) -> list[str]:
    """Look at data, model and machine, and write the project.

    Returns:
        What was decided and done, in words.

    Raises:
        HapoError: something does not fit; nothing was written.
    """
    reward = reward_module(wanted.given.verifier, folder)
    _refuse_folder(folder, wanted, reward)
    refuse_unknown(wanted.overrides)
    model_folder(wanted.model)  # before the data: it takes no time, and torch takes seconds to load
    plan = _plan(wanted)
    whole, time = params_text(plan), "not measured"
    text = with_overrides(whole, wanted.overrides, "params.yaml")
    parse_params(round_trip().load(text))
    if wanted.timed:
        pace = measure(plan.model, plan.machine, plan.numbers)
        samples = SAMPLES * max(1, len(plan.held_out))
        seconds = pace.run(plan.numbers, plan.rounds, samples)
        time = f"about {brief(seconds)}, {pace.round(plan.numbers):.2g} s a round (measured)"
        pace_of = (pace.round(plan.numbers), pace.evaluation(plan.numbers, samples))
    decided = decisions(plan, time)
    width = max(len(what) for what, _ in decided)
    lines = ["decided; -S KEY=VALUE, or params.yaml, changes it:"]
    lines += [f"  {what:<{width}}  {text}" for what, text in decided]
    lines += [f"  {'set':<{width}}  {item}" for item in wanted.overrides]
    if plan.held_out:
        atomic_write_text(folder / HELD_OUT, heldout_text(plan.held_out))
    try:
        lines += make_project(folder, text, _readme(folder, decided), more=_more(plan))
    except ConfigError:
        (folder / HELD_OUT).unlink(missing_ok=True)
        raise
    atomic_write_json(folder / ASKED, wanted.facts())
    if wanted.timed:
        record_pace(*pace_of, folder)
    return lines


def _more(plan: Plan) -> tuple[str, ...]:
    return (str(HELD_OUT),) if plan.held_out else ()


def _plan(wanted: Wanted) -> Plan:
    test = measured_source(wanted.test, wanted.given) if wanted.test else None
    found = fit(wanted.given)
    if test and wanted.test:
        left, notes = apart_from(found.problems, test, wanted.test)
        found = replace(found, problems=tuple(left), notes=(*found.notes, *notes))
    model = find_model(wanted.model)
    machine = find_machine(model)
    apart = () if test else tuple(held_out(found.problems, wanted.seed))
    trained = replace(found, problems=tuple(p for p in found.problems if p not in set(apart)))
    numbers = decide(trained, model, machine, needs_traces(wanted.given.method), _lora(wanted))
    return Plan(
        found, model, machine, numbers, wanted.given.method, wanted.rounds, wanted.seed, apart, test
    )


def _lora(wanted: Wanted) -> bool | None:
    """Whether `-S` asks for adapters, or for none: the learning rate follows."""
    asked = [o.partition("=") for o in wanted.overrides if o.startswith("update.lora")]
    return asked[-1][2] not in ("null", "~", "") if asked else None


def _refuse_folder(folder: Path, wanted: Wanted, reward: Path | None) -> None:
    """A project belongs in a folder of its own; the files that it is made from may lie there."""
    if not folder.is_dir():
        return
    given = wanted.given
    named = [given.data, given.traces, wanted.test, Path(wanted.model), reward]
    mine = {expanded(p).resolve() for p in named if p is not None}
    others = [
        p.name
        for p in sorted(folder.iterdir())
        if not p.name.startswith(".")
        and p.suffix != ".log"  # `hapo train ... | tee run.log`
        and not any(m == p.resolve() or p.resolve() in m.parents for m in mine)
        and not (p / "pyvenv.cfg").is_file()
    ]
    if others:
        raise ConfigError(
            f"the folder holds other things ({', '.join(others[:3])}), and a project wants one "
            "of its own",
            where=str(folder.absolute()),
            remedy="--dir NAME: it is made there",
        )


def _readme(folder: Path, decided: list[tuple[str, str]]) -> str:
    rows = "\n".join(f"| {what} | {text} |" for what, text in decided)
    about = "Made by `hapo train`, which decided:\n\n| | |\n|---|---|\n" + rows
    return readme_text(folder.resolve().name, about)


def pairs(text: str, option: str) -> Mapping[str, str]:
    """`ours=theirs,ours=theirs` of an option.

    Raises:
        ConfigError: it is none.
    """
    found = {}
    for pair in filter(None, (p.strip() for p in text.split(","))):
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if not ours or not theirs:
            raise ConfigError(
                f"{option} {text!r} is no list of ours=theirs",
                remedy=f"{option} problem=question,answer=result",
            )
        found[ours] = theirs
    return found
