"""Models and benchmarks for `hapo evaluate`: given on the command line, not by a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hapo_core.errors import ConfigError, DataError
from hapo_core.verify import VerifierPool
from pipeline.artifacts import MANIFEST, check_manifest, sha256_file
from pipeline.artifacts.places import DATA, expanded
from pipeline.artifacts.tables import BENCHMARK
from pipeline.config import (
    PARAMS,
    BenchmarkProtocol,
    PresetSource,
    TableSource,
    load_params,
    parse_section,
)
from pipeline.config.presets import PRESETS, find_preset
from pipeline.config.section import checked_name
from pipeline.curate.benchmarks import Benchmark, read_benchmark
from pipeline.curate.prompts import PromptMaker
from pipeline.curate.sources import open_source

PLAIN_PROTOCOL = {"k": 1, "temperature": 0.6, "top_p": 1.0, "max_tokens": 8192}
"""Of a benchmark without a preset."""
CURATED = DATA / "benchmarks"
_UNREADABLE = 0.05
"""A public benchmark with more golds than this share that the verifier cannot read is refused."""


# --- models -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A model on disk, and what pins it."""

    path: Path
    facts: dict[str, object]


def find_model(name: str, revision: str | None) -> Model:
    """A Hugging Face folder, a policy of a run (`artifacts/policy/NAME`), or a hub id.

    Raises:
        DataError: there is no such folder, and the hub's cache and the hub have no such model.
    """
    from hapo_core.lora import base_of
    from hapo_core.model_folder import check_model_folder
    from pipeline.models import fetch_model, policy_model

    folder = expanded(name)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError("--revision belongs to a hub id", where=f"--model {name}")
        if (folder / MANIFEST).is_file() and not (folder / "config.json").is_file():
            check_manifest(folder)
            folder = policy_model(folder)
        facts: dict[str, object] = {"path": name, "sha256": _hashes(folder)}
        if (base := base_of(folder)) is not None:  # adapters, as `update.lora` leaves them
            check_model_folder(base)
            facts["adapters_of"] = {"path": str(base), "sha256": _hashes(base)}
        else:
            check_model_folder(folder)
        return Model(folder, facts)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise DataError(
            "there is no such model folder",
            where=f"--model {name}",
            remedy="give a folder with config.json and safetensors, or a hub id (owner/name)",
        )
    path = fetch_model(name, revision, "--model")
    check_model_folder(path)
    return Model(path, {"hub": name, "commit": path.name})


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return {p.name: sha256_file(p) for p in files}


# --- benchmarks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchmarkRequest:
    """One `--benchmark`: its name, where it is read, and its protocol."""

    name: str
    source: PresetSource | TableSource
    protocol: BenchmarkProtocol


def ask(
    given: str, columns: Mapping[str, str], overrides: Mapping[str, float | int | None]
) -> BenchmarkRequest:
    """Read `NAME[=PATH]`.

    NAME is a preset (`pipeline.config.presets`), a benchmark of the params.yaml here (its curated
    table is read), or any name with a PATH.

    Args:
        columns: our field -> their column, for files without a preset.
        overrides: of the protocol; None keeps the preset's value.

    Raises:
        ConfigError: an unknown name, or a protocol out of range.
    """
    name, _, path = given.partition("=")
    where = f"--benchmark {given}"
    try:
        checked_name(name)
    except ValueError as error:
        raise ConfigError(
            str(error), where=where, remedy="write --benchmark NAME or --benchmark NAME=PATH"
        ) from error
    preset = find_preset(name)
    told = {key: value for key, value in overrides.items() if value is not None}
    base: dict[str, object] = {**(preset.protocol() if preset else PLAIN_PROTOCOL)}
    if preset is not None:
        base["preset"] = name
        if columns:
            raise ConfigError(
                "--columns belongs to files of your own",
                where=where,
                remedy=f"the columns of {name} are known; another NAME reads your own columns",
            )
        source: PresetSource | TableSource = parse_section(
            PresetSource, {"kind": name, "path": path or None}, where
        )
        _must_exist(path, where)
    else:
        source, own = _own_source(name, path, columns, where)
        base.update(own)
    return BenchmarkRequest(name, source, parse_section(BenchmarkProtocol, {**base, **told}, where))


def column_map(given: str) -> dict[str, str]:
    """`problem=question,answer=gold` as a mapping.

    Raises:
        ConfigError: a part without `=`.
    """
    pairs = [part.partition("=") for part in given.split(",") if part.strip()]
    for field, sign, column in pairs:
        if not (field.strip() and sign and column.strip()):
            raise ConfigError(
                f"{field!r} is no FIELD=COLUMN",
                where=f"--columns {given}",
                remedy="write --columns problem=question,answer=gold",
            )
    return {field.strip(): column.strip() for field, _, column in pairs}


def _own_source(
    name: str, path: str, columns: Mapping[str, str], where: str
) -> tuple[TableSource, dict[str, object]]:
    """The table of a benchmark without a preset, and its protocol where params.yaml has one."""
    own: dict[str, object] = {}
    if not path:
        params = load_params() if PARAMS.is_file() else None
        if params is None or name not in params.curate.benchmarks:
            raise ConfigError(
                f"there is no benchmark {name!r}",
                where=where,
                remedy=f"one of {', '.join(PRESETS)}; one of the params.yaml here; or NAME=PATH",
            )
        path = str(CURATED / f"{name}.parquet")
        if not Path(path).is_file():
            raise DataError(
                "the benchmark of params.yaml is not curated yet",
                where=path,
                remedy="`dvc repro curate`",
            )
        if name in params.evaluate.benchmarks:
            own = params.evaluate.benchmarks[name].model_dump()
    _must_exist(path, where)
    if not columns and _is_curated(expanded(path)):
        columns = {"id": "problem_id", "problem": "problem", "answer": "answer"}
    settings = {"kind": "table", "path": path, "columns": dict(columns)}
    return parse_section(TableSource, settings, where), own


def _is_curated(path: Path) -> bool:
    """Whether it is a table `BENCHMARK`: of a run, or kept by an earlier evaluation."""
    if path.suffix != ".parquet" or not path.is_file():
        return False
    try:
        return bool(pq.read_schema(path).equals(BENCHMARK))
    except (pa.ArrowInvalid, OSError):  # reading it will say what is wrong
        return False


def _must_exist(path: str, where: str) -> None:
    if path and not expanded(path).exists():
        raise DataError(
            "there is no such file or folder", where=where, remedy="mend the path after `=`"
        )


def read(
    asked: BenchmarkRequest, maker: PromptMaker, pool: VerifierPool, reward: str, keep_bad: bool
) -> Benchmark:
    """Read, check and tokenise a benchmark; `limit` of the protocol takes the first problems.

    Args:
        reward: grades the problems of a source that names none.

    Raises:
        DataError: rows without what they need, two with one id, or golds that cannot be read
            (any in a file of one's own, more than 5 % in a public benchmark).
    """
    source = asked.source.model_copy(update={"limit": asked.protocol.limit})
    opened = open_source(asked.name, source, 0, "benchmark", set())
    benchmark = read_benchmark(asked.name, opened, maker, pool, source.reward or reward)
    bad = unreadable(benchmark)
    allowed = _UNREADABLE * len(benchmark.rows) if asked.protocol.preset else 0
    if len(bad) > allowed and not keep_bad:
        first = bad[0]
        raise DataError(
            f"{len(bad)} of {len(benchmark.rows)} golds cannot be graded; the first is "
            f"{first['gold']!r} ({first['verdict']})",
            where=str(first["problem_id"]),
            remedy="mend the gold, choose another --verifier, or --keep-bad-golds: what is "
            "answered to them is then unknown, and counted as not correct",
        )
    return benchmark


def unreadable(benchmark: Benchmark) -> list[dict[str, str]]:
    """The golds that the verifier cannot read, or does not find equal to themselves."""
    checks = benchmark.checks["gold_against_gold"]
    assert isinstance(checks, dict)
    found: list[dict[str, str]] = checks["exceptions"]
    return found


def notes(asked: BenchmarkRequest, benchmark: Benchmark) -> list[str]:
    """What a reader of the number has to know about this benchmark."""
    found = []
    preset = find_preset(asked.protocol.preset or "")
    expected = preset.problems if preset else None
    rows = len(benchmark.rows)
    if asked.protocol.limit is not None and rows == asked.protocol.limit:
        found.append(f"{asked.name}: the first {rows} problems only (--limit)")
    elif expected is not None and rows != expected:
        found.append(f"{asked.name}: {rows} problems, the published benchmark has {expected}")
    bad = unreadable(benchmark)
    if bad:
        ids = ", ".join(item["problem_id"] for item in bad[:5])
        found.append(
            f"{asked.name}: {len(bad)} golds cannot be graded ({ids}); "
            "answers to them count as not correct"
        )
    return found
