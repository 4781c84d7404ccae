"""A key is declared once: in its section, or in the class of hapo_core that takes it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import REPO

from hapo_core.update_spec import LoraSpec, UpdateSpec
from hapo_core.verifier_settings import VerifierSettings
from pipeline.config import Params
from pipeline.config.section import Section, core_of
from pipeline.config.training import Lora, Rewards, Update

TWICE = {
    ("VllmServers", "ServerSpec"): "no defaults in the core; the device's dtype fills in",
    ("VllmServers", "VLLMSettings"): "no defaults in the core but restarts",
    ("Gate", "GateSpec"): "the section's names are the paper's, its thresholds have a `kind`",
    ("ScheduledThreshold", "ScheduledThreshold"): "`kind` and gamma_start stand for shape, start",
    ("AdaptiveThreshold", "AdaptiveThreshold"): "gamma_start stands for start",
    ("_Objective", "Objective"): "None is what the preset says, not the core's default",
    ("_Teacher", "Objective"): "shape and weight are teacher_shape and teacher_weight",
    ("TinyBase", "CarelessSpec"): "one section is three classes: careless, supervised, habit",
    ("TinyBase", "SupervisedSpec"): "one section is three classes",
    ("TinyBase", "Habit"): "one section is three classes",
    ("ColdStart", "UpdateSpec"): "its own defaults: rounds are supervised",
    ("RolloutParams", "Sampling"): "no defaults in the core",
    ("BenchmarkProtocol", "Sampling"): "no defaults in the core",
}
"""What still stands in both, and why; all others are `shared` or are no settings of each other."""
UNRELATED = {
    ("Compute", "ServerSpec"),
    ("Preset", "Sampling"),
    ("ChainsSource", "CarelessSpec"),
}
"""Never turned into one another."""
SETTINGS = {core for _, core in TWICE} | {"UpdateSpec", "LoraSpec", "VerifierSettings"}
"""Classes of the core that sections are turned into."""
Declared = dict[str, set[str]]


def declared(folder: Path) -> Iterator[tuple[str, set[str]]]:
    """(class, names with an annotation) of every class in a folder's sources."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = (x.target for x in node.body if isinstance(x, ast.AnnAssign))
                yield node.name, {n.id for n in names if isinstance(n, ast.Name)}


def twice(sections: Declared, core: Declared) -> set[tuple[str, str]]:
    """Pairs of a section and a class of the core that declare two or more names each."""
    return {(s, c) for s, a in sections.items() for c, b in core.items() if len(a & b) > 1}


def test_no_section_repeats_a_class_of_the_core() -> None:
    core = {name: keys for name, keys in declared(REPO / "hapo_core") if name in SETTINGS}
    sections = dict(declared(REPO / "pipeline" / "config"))
    assert set(core) == SETTINGS
    found = twice(sections, core) - UNRELATED
    assert found == set(TWICE), "a key declared twice, or a reason that is out of date"


def test_a_repeated_section_would_be_seen() -> None:
    repeated = {"Update": {"learning_rate", "epochs", "mismatch_cap"}}
    assert twice(repeated, {"UpdateSpec": {"learning_rate", "epochs", "betas"}})


@pytest.mark.parametrize(
    ("section", "core", "apart"),
    [
        (Update, UpdateSpec, {"mismatch_limit"}),
        (Lora, LoraSpec, set()),
        (Rewards, VerifierSettings, {"kind"}),
    ],
)
def test_a_shared_section_is_its_class_by_name(
    section: type[Section], core: type, apart: set[str]
) -> None:
    """Defaults and ranges are the core's, and what is built has them all, whatever their order."""
    for f in fields(core):
        if f.name not in apart:
            key = section.model_fields[f.name]
            assert key.is_required() or key.default == f.default, f.name
    given = {"learning_rate": 0.5} if section is Update else {}
    made = core_of(core, section(**given), **dict.fromkeys(apart, "math"))
    plain = core(**given, **dict.fromkeys(apart, "math"))
    assert made == plain
    with pytest.raises(ValueError, match="Extra"):
        section(**given, no_such_key=1)


def test_ranges_of_a_shared_key_hold_in_a_file() -> None:
    rewards, update = Params.model_fields["rewards"].annotation, Update
    assert rewards is Rewards
    for bad in ({"workers": 0}, {"memory_mb": 10}, {"timeout_seconds": "5"}, {"require_box": 1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Rewards(**bad)
    for bad in ({"epochs": 0}, {"betas": (0.9,)}, {"max_grad_norm": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            update(learning_rate=1e-3, **bad)
    with pytest.raises(ValueError, match="learning_rate"):
        update()
