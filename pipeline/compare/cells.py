"""The cells of a comparison: which settings, which seeds, at which equal budget."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hapo_core.errors import ConfigError
from hapo_core.methods.entry import Teaching
from hapo_core.methods.registry import methods
from pipeline.config import Params, parse_params
from pipeline.config.method import OFF
from pipeline.config.nearest import nearest
from pipeline.config.section import checked_name
from pipeline.config.yaml import read_yaml, read_yaml_file
from pipeline.dependencies.lock import READS, lock_of

Changes = Mapping[str, object]
"""Dotted key of params.yaml -> value; a mapping as the value replaces the whole section."""
Plain = dict[str, Any]
Kind = Literal["rounds", "generated", "trained"]
VARIANTS: dict[str, Changes] = {
    **{name: {"method": name} for name in methods()},
    **{
        label: {"method": name} | {f"{entry.section}.{name}.{k}": v for k, v in options.items()}
        for name, entry in methods().items()
        for label, options in entry.variants.items()
    },
    "dapo": {"method": "grpo", "objective.preset": "dapo"},
    "dr_grpo": {"method": "grpo", "objective.preset": "dr_grpo"},
    "gspo": {"method": "grpo", "objective.preset": "gspo"},
}
"""What `--methods` knows: every method, and the variants that are a setting of one."""
MOST = 10**12
"""Rounds or tokens of a budget; infinity and `nan` are none either."""
ROOM = 20
"""A budget of tokens may take this many times the profile's rounds before it is given up."""


@dataclass(frozen=True)
class Budget:
    """What all cells get the same of. A method that spends none of it (SFT generates nothing) gets
    the profile's rounds."""

    kind: Kind
    amount: int

    @staticmethod
    def parse(text: str) -> Budget:
        """`rounds=45`, `generated=400000`, `trained=3e5`.

        Raises:
            ConfigError: anything else.
        """
        kind, _, amount = text.partition("=")
        try:
            number = float(amount)
        except ValueError:
            number = 0.0
        if kind not in get_args(Kind) or not 1 <= number <= MOST or number != int(number):
            raise ConfigError(
                f"{text!r} is no budget",
                where="--budget",
                remedy="write rounds=N, generated=TOKENS or trained=TOKENS",
            )
        return Budget(kind, int(number))  # type: ignore[arg-type]  # checked above

    def __str__(self) -> str:
        unit = "rounds" if self.kind == "rounds" else f"{self.kind} tokens"
        return f"{self.amount:,} {unit}"


@dataclass(frozen=True)
class Cell:
    """One setting with one seed. `name`: of its experiment; it changes with everything that decides
    the cell's numbers, so equal names are equal results."""

    label: str
    seed: int
    raw: Plain
    name: str

    @property
    def params(self) -> Params:
        """`raw` as the schema reads it: checked, defaults filled in."""
        return parse_params(self.raw, where=f"cell {self.label}, seed {self.seed}")


def read_plain(path: Path) -> Plain:
    """A YAML mapping.

    Raises:
        ConfigError: it is none, or no YAML, or the file cannot be read.
    """
    raw = read_yaml_file(path)
    if not isinstance(raw, dict):
        raise ConfigError("not a mapping", where=str(path))
    return raw


def parse_changes(text: str) -> dict[str, object]:
    """`KEY=VALUE,KEY=VALUE`; values are YAML, a comma that no `KEY=` follows belongs to its value.

    Raises:
        ConfigError: no such list, or a value that is no YAML.
    """
    found: dict[str, object] = {}
    for pair in re.split(r",(?=\s*[\w.]+=)", text):
        key, mark, value = pair.partition("=")
        if not mark or not key.strip():
            raise ConfigError(f"{pair!r} is not KEY=VALUE", where=text)
        try:
            found[key.strip()] = read_yaml(value, pair)
        except ConfigError as error:
            raise ConfigError(f"{value[:60]!r} is no YAML: {error.what}", where=pair) from error
    return found


def named_settings(
    methods: Iterable[str], files: Sequence[Path], written: Sequence[str]
) -> dict[str, Changes]:
    """Label -> changes, from `--methods`, `--cells FILE` and `--cell NAME:KEY=VALUE,...`.

    Raises:
        ConfigError: an unknown method, a label twice, or a cell that cannot be read.
    """
    found: dict[str, Changes] = {}
    for name in methods:
        if name not in VARIANTS:
            raise ConfigError(
                f"no method {name!r}{nearest(name, list(VARIANTS))}",
                where="--methods",
                remedy="one of " + ", ".join(VARIANTS),
            )
        found[name] = VARIANTS[name]
    for path in files:
        _add(found, {str(k): v or {} for k, v in read_plain(path).items()}, str(path))
    for text in written:
        label, _, changes = text.partition(":")
        _add(found, {label: parse_changes(changes)}, "--cell")
    if not found:
        raise ConfigError("nothing to compare", remedy="name --methods, --cells or --cell")
    return found


def _add(found: dict[str, Changes], more: Mapping[str, Changes], where: str) -> None:
    for label, changes in more.items():
        if label in found:
            raise ConfigError(f"the label {label!r} is there twice", where=where)
        try:
            checked_name(label)
        except ValueError as error:
            raise ConfigError(f"{label!r} is no label: {error}", where=where) from error
        if not isinstance(changes, Mapping):
            raise ConfigError(f"cell {label!r} is no mapping of keys to values", where=where)
        found[label] = changes


def plan(
    raw: Plain,
    settings: Mapping[str, Changes],
    seeds: Sequence[int],
    budget: Budget | None,
    code: str,
) -> list[Cell]:
    """All cells, seed by seed.

    Args:
        raw: params.yaml.
        code: fingerprint of the code that decides results.

    Raises:
        ConfigError: a cell's configuration is not valid.
    """
    cells = []
    for seed in seeds:
        for label, changes in settings.items():
            mine = copy.deepcopy(raw)
            for key, value in {**changes, "seed": seed}.items():
                _put(mine, key, value)
            _take_guard_out(mine, changes)
            if budget is not None:
                _give(mine, budget, f"cell {label}, seed {seed}")
            text = json.dumps([mine, code], sort_keys=True, default=str)
            digest = hashlib.sha256(text.encode()).hexdigest()[:8]
            cell = Cell(label, seed, mine, f"{label}-s{seed}-{digest}")
            _ = cell.params  # checked here, before anything runs
            cells.append(cell)
    return cells


def _put(raw: Plain, key: str, value: object) -> None:
    *parents, last = key.split(".")
    place = raw
    for name in parents:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise ConfigError(f"{key}: {name!r} is no section", where="cell")
    place[last] = copy.deepcopy(value)


def _take_guard_out(raw: Plain, changes: Changes) -> None:
    """The guard of params.yaml is the gate's: a method that asks none goes without it. A cell that
    names it itself is refused as a run would be."""
    entry, gate = methods().get(str(raw.get("method"))), raw.get("gate")
    if entry is None or entry.teaching is Teaching.GATED or not isinstance(gate, dict):
        return
    if "gate" in changes:
        return
    for key in OFF:
        if not any(changed.startswith(f"gate.{key}") for changed in changes):
            gate.pop(key, None)


def _give(raw: Plain, budget: Budget, where: str) -> None:
    try:
        _spend(raw, budget)
    except (TypeError, ValueError, AttributeError, LookupError, StopIteration) as error:
        parse_params(raw, where=where)  # says what is wrong with segments or targets
        raise ConfigError("its segments take no budget", where=where) from error


def _spend(raw: Plain, budget: Budget) -> None:
    """Give the cell its rounds, in segments of the profile's size, or its budget of tokens."""
    segments: dict[str, Plain] = raw["segments"]
    usual = sum(int(s["rounds"]) for s in segments.values())
    size = int(next(iter(segments.values()))["rounds"])
    if budget.kind == "rounds":
        full, rest = divmod(budget.amount, size)
        _chain(raw, [size] * full + ([rest] if rest else []))
    elif budget.kind == "generated" and _never_samples(raw):
        _chain(raw, [usual])
    else:
        _chain(raw, [ROOM * usual])
        raw["segments"]["1"][budget.kind] = budget.amount


def _never_samples(raw: Plain) -> bool:
    entry = methods().get(str(raw["method"]))
    return entry is not None and entry.teaching is Teaching.ALONE


def _chain(raw: Plain, rounds: Sequence[int]) -> None:
    start = next(iter(raw.get("cold_start") or {}), "base")
    names = [start, *(str(i + 1) for i in range(len(rounds)))]
    raw["segments"] = {
        name: {"prev": prev, "rounds": count}
        for prev, name, count in zip(names, names[1:], rounds, strict=False)
    }
    raw["targets"]["final"] = {"policy": names[-1]}


# --- what DVC is told ---------------------------------------------------------------------------


def overrides(base: Plain, wanted: Plain) -> list[str]:
    """The arguments of `dvc exp run -S` that turn one configuration into another (Hydra grammar:
    `key=value` changes, `+key=value` adds, `~key` removes)."""
    return list(_differences(base, wanted, ""))


def _differences(base: Plain, wanted: Plain, path: str) -> Iterable[str]:
    for key in base.keys() - wanted.keys():
        yield f"~{path}{key}"
    for key, value in wanted.items():
        at, old = f"{path}{key}", base.get(key, {})
        if isinstance(value, dict) and isinstance(old, dict) and (old or value):
            yield from _differences(old, value, f"{at}.")
        elif key not in base:
            yield f"+{at}={_literal(value)}"
        elif base[key] != value or type(base[key]) is not type(value):
            yield f"{at}={_literal(value)}"


def _literal(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case dict():
            return "{" + ",".join(f"{k}:{_literal(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(_literal(v) for v in value) + "]"
    raise ConfigError(f"a value of type {type(value).__name__} cannot be set", where="cell")


def code_fingerprint(raw: Plain, root: Path) -> str:
    """Hash of what decides results beside parameters, in all stages but the report.

    Raises:
        ConfigError: params.yaml is not valid.
    """
    params = parse_params(raw)
    locks = {kind: lock_of(kind, params, root) for kind in READS if kind != "report"}
    code = {
        kind: {part: lock[part] for part in ("modules", "user_code", "files")}
        for kind, lock in locks.items()
    }
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()
