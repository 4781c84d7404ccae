"""Values that no configuration is meant to hold: themselves, without a bottom, without measure,
dates and numbers that there are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TOY_PARAMS

from hapo_core.errors import ConfigError
from pipeline.compare.cells import parse_changes, read_plain
from pipeline.config import load_params
from pipeline.config.overrides import configure

LAUGHS = (
    "{"
    + ", ".join(
        ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
        + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    )
    + "}"
)
BAD = {
    "itself": "&a [*a]",
    "itself in a mapping": "&a {x: *a}",
    "without a bottom": "[" * 3000 + "]" * 3000,
    "without a bottom, in blocks": "\n  " + "- " * 100_000,
    "deeper than the reader": "{a: " * 100_000,
    "a hundred million": LAUGHS,
    "a day that is not": "2026-99-99",
    "a number without an end": "9" * 5000,
    "no text": "\udcff",
    "an object": "!!python/object/apply:os.system ['true']",
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("person", [True, False])
def test_an_override(tmp_path: Path, value: str, person: bool) -> None:
    (tmp_path / "params.yaml").write_text(TOY_PARAMS)
    with pytest.raises(ConfigError):
        configure(None, (f"seed={value}",), tmp_path, person=person)
    assert (tmp_path / "params.yaml").read_text() == TOY_PARAMS


@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_a_file_and_a_cell(tmp_path: Path, value: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(f"seed: {value}\n".encode(errors="surrogateescape"))
    for read in (load_params, read_plain):
        with pytest.raises(ConfigError):
            read(path)
    with pytest.raises(ConfigError):
        parse_changes(f"seed={value}")


@pytest.mark.parametrize("text", ["", "5", "[]", "null", "a"])
def test_no_mapping_is_no_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match="no mapping"):
        configure(None, ("seed=1",), tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "update.learning_rate=.inf",
        "update.learning_rate=1.0e+999",
        "rollout.temperature=.nan",
        "gate.threshold={kind: constant, gamma: .inf}",
        "train.mismatch={stop: .inf}",
    ],
)
def test_a_number_is_finite(tmp_path: Path, override: str) -> None:
    (tmp_path / "params.yaml").write_text(TOY_PARAMS)
    with pytest.raises(ConfigError, match="finite"):
        configure(None, (override,), tmp_path)
