"""The lock of a kind of stage: `deps/KIND.json`, what decides its numbers beside its artifacts.

dvc.yaml names these files as the stages' dependency on code. The stage `deps` makes them anew where
code, params.yaml or a watched file changed; `hapo run` does so before it starts DVC. Where a lock
keeps its bytes nothing runs again.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import site
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from hapo_core.json_text import parse_json
from pipeline.artifacts import atomic_write_text, read_text, sha256_file
from pipeline.artifacts.places import expanded
from pipeline.config import Params, Segment
from pipeline.config.data import PresetSource
from pipeline.config.policy import PretrainedBase
from pipeline.dependencies import kept
from pipeline.dependencies.closure import closure, code_hash, code_root, parsed
from pipeline.dependencies.plumbing import is_plumbing
from pipeline.dependencies.releases import version
from pipeline.dependencies.values import changed_values

FOLDER = Path("deps")
GRAPH = "graph"
"""`deps/graph.json`: what DVC made the stages of (segments, targets). It is no stage's dependency:
a new target reruns no other. A stage compares its own entry, as DVC and the stage's process read
params.yaml at different times."""
READS: dict[str, tuple[str, ...]] = {
    "curate": ("seed", "curate", "base", "rewards", "train.probe_benchmark"),
    "base": ("base", "compute", "update.micro_batch_tokens"),
    "cold_start": ("compute", "cold_start"),
    "train": (
        "seed",
        "method",
        "gate",
        "teacher",
        "objective",
        "sft",
        "rewards",
        "rollout",
        "update",
        "train",
        "compute",
        "cold_start",  # its sources are set aside
    ),
    "evaluate": (
        "seed",
        "evaluate",
        "rewards",
        "compute",
        "curate.prompt_suffix",
        "curate.system_prompt",
        "curate.prompt_date",
    ),
    "report": tuple(name for name in Params.model_fields if name != "loggers"),
}
"""What a kind of stage reads of params.yaml, by path. `train@K` reads `segments.K` too."""
PROMPTS = ("curate.prompt_suffix", "curate.system_prompt", "curate.prompt_date")
VERSIONS = {"curate": ("math-verify",), "train": ("math-verify",), "evaluate": ("math-verify",)}
"""Packages whose release decides verdicts. Those that decide rounding (torch, transformers) are
recorded with the result and not locked: another machine may go on with what it pulled."""
WITH_METHOD = ("train", "report")
"""Kinds that compute with the chosen method's file, or say its sentences."""
Lock = dict[str, Any]


def lock_of(kind: str, params: Params, root: Path = Path()) -> Lock:
    """What decides the numbers of a kind of stage, as JSON."""
    kept.load(root)
    code = code_root(root)
    modules = closure(f"pipeline.{kind}.__main__", code)
    if kind in WITH_METHOD:
        # A method is found by its file's name: no import statement leads to it.
        modules |= closure(f"hapo_core.methods.{params.method}", code)
    counted = {m: p for m, p in modules.items() if not is_plumbing(m, kind, params)}
    found: Lock = {
        "stage": kind,
        "parameters": parameters(kind, params),
        "modules": {m: code_hash(p) for m, p in sorted(counted.items())},
        "user_code": _user_code(kind, params, root),
        "files": {str(p): sha256_file(p) for p in _files(kind, params, root)},
        "packages": {name: version(name) for name in VERSIONS.get(kind, ())},
    }
    if kind == "report":
        folder = code / "pipeline" / "show" / "templates"
        found["files"] |= {f"templates/{p.name}": code_hash(p) for p in sorted(folder.glob("*.*"))}
    return found


def files_of(kind: str, params: Params, root: Path = Path()) -> list[Path]:
    """All files whose content the lock of a kind holds, templates of the report aside."""
    modules = closure(f"pipeline.{kind}.__main__", code_root(root))
    counted = [p for m, p in modules.items() if not is_plumbing(m, kind, params)]
    given = (root / path for path in _files(kind, params, root))
    return [*counted, *user_modules(kind, params, root).values(), *given]


def parameters(kind: str, params: Params) -> dict[str, object]:
    """Path -> value, defaults filled in; `segments` has the defaults of a segment."""
    dump = {"cold_start": {}} | params.model_dump(mode="json")  # left out where there is none
    found = {path: _at(dump, path) for path in READS[kind]}
    if kind == "train" and params.distils:  # the teacher's prompts are made in training
        found |= {path: _at(dump, path) for path in PROMPTS}
    if kind == "curate" and params.train.watch:
        found["train.watch"] = list(params.train.watch)
    if kind == "train":
        fields = Segment.model_fields.items()
        found["segments"] = {k: f.default for k, f in fields if not f.is_required()}
    if kind == "curate":
        named = {n: b for n, b in params.curate.benchmarks.items() if isinstance(b, PresetSource)}
        found["presets"] = {n: b.table().model_dump(mode="json") for n, b in named.items()}
    return found


def _at(dump: Mapping[str, Any], path: str) -> object:
    value: Any = dump
    for key in path.split("."):
        value = value[key]
    return value


# --- code and files of the user -------------------------------------------------------------------


def rewards_of(kind: str, params: Params) -> set[str]:
    """What grades in a kind of stage: names of rewards."""
    curate = params.curate
    sources = {s.reward or params.rewards.verifier for s in curate.sources.values()}
    benchmarks = {n: s.reward or params.rewards.verifier for n, s in curate.benchmarks.items()}
    if kind == "train":
        return sources | {benchmarks[name] for name in params.train.watched}
    if kind == "evaluate":
        return {benchmarks[name] for name in params.evaluate.benchmarks}
    return sources | set(benchmarks.values()) if kind == "curate" else set()


def user_modules(kind: str, params: Params, root: Path = Path()) -> dict[str, Path]:
    """Module -> file of the rewards that are functions of the user's own, and what they import of
    the project's other modules."""
    found: dict[str, Path] = {}
    for reward in sorted(rewards_of(kind, params)):
        if ":" not in reward:
            continue
        todo = [reward.partition(":")[0]]
        while todo:
            module = todo.pop()
            path = _user_file(module, root)
            if path is None or module in found:
                continue
            found[module] = path
            todo += _user_imports(path, module)
    return found


def _user_file(module: str, root: Path) -> Path | None:
    """A module of the project, or of an installed package that is none of ours."""
    if module.split(".")[0] in ("hapo_core", "pipeline"):
        return None
    place = root.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    return origin if origin is not None and origin.is_file() and _is_own(origin) else None


def _is_own(path: Path) -> bool:
    """Not of the standard library, and a plain file of Python."""
    return path.suffix == ".py" and not path.is_relative_to(sysconfig.get_paths()["stdlib"])


def _user_imports(path: Path, module: str) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    if "." in module:
        yield module.rpartition(".")[0]
    if any(path.is_relative_to(folder) for folder in site.getsitepackages()):
        return  # what an installed package imports is known by its release
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level else []
            inside = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*inside, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _user_code(kind: str, params: Params, root: Path) -> dict[str, str]:
    found = {m: code_hash(p) for m, p in sorted(user_modules(kind, params, root).items())}
    for reward in rewards_of(kind, params):  # a package: its release too
        name = reward.partition(".")[0].partition(":")[0]
        try:
            found |= {f"{name} (release)": version(name)} if ":" in reward else {}
        except PackageNotFoundError:
            continue
    return found


def source_paths(params: Params) -> list[Path]:
    """Files and folders that params.yaml names as sources and as the starting policy."""
    named = [*params.curate.sources.values(), *params.curate.benchmarks.values()]
    given = [getattr(s, key, None) for s in named for key in ("path", "traces_path")]
    if isinstance(params.base, PretrainedBase):
        given.append(params.base.path)
    return sorted({expanded(p) for p in given if p})


def _files(kind: str, params: Params, root: Path) -> Iterator[Path]:
    """The files below the named sources; of a policy only what the stage reads."""
    if kind not in ("curate", "base"):
        return
    base = params.base
    policy = base.path if isinstance(base, PretrainedBase) else None
    for path in source_paths(params):
        is_policy = policy is not None and path == expanded(policy)
        if not is_policy and kind == "base":
            continue
        where = root / path
        inside = sorted(p for p in where.rglob("*") if p.is_file()) if where.is_dir() else [where]
        for file in inside:
            weights = is_policy and kind == "curate" and file.suffix in (".safetensors", ".bin")
            if file.is_file() and not weights:
                yield file


def watched(params: Params, root: Path = Path()) -> list[Path]:
    """What the stage `deps` depends on beside params.yaml and our code."""
    own = {p for kind in READS for p in user_modules(kind, params, root).values()}
    given = [
        p for p in source_paths(params) if (root / p).exists() and Path("data") not in p.parents
    ]
    here = root.resolve()
    found = set()
    for path in own:
        whole = path.resolve()
        found.add(whole.relative_to(here) if whole.is_relative_to(here) else whole)
    for path in given:
        whole = (root / path).resolve()
        # A whole path stays one, inside of the project too: experiments run in copies without it.
        inside = whole.is_relative_to(here) and not path.is_absolute()
        found.add(whole.relative_to(here) if inside else whole)
    return sorted(found)


# --- files ----------------------------------------------------------------------------------------


def place_of(kind: str, root: Path = Path()) -> Path:
    """Where the lock of a kind lies."""
    return root / FOLDER / f"{kind}.json"


def read_lock(kind: str, root: Path = Path()) -> Lock | None:
    """The lock that was made last; None where there is none or it is torn."""
    try:
        found = parse_json(read_text(place_of(kind, root)))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def text_of(lock: Lock) -> str:
    """The lock as its file has it."""
    return json.dumps(lock, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def key_of(lock: Lock) -> str:
    """Hex sha256 of a lock."""
    return hashlib.sha256(text_of(lock).encode()).hexdigest()


def renew(params: Params, root: Path = Path(), kinds: Iterable[str] = READS) -> list[str]:
    """Write the locks that changed, and the graph; their kinds."""
    changed = []
    texts = {kind: text_of(lock_of(kind, params, root)) for kind in kinds}
    kept.save(root)
    for kind, text in (texts | {GRAPH: text_of(graph_of(params))}).items():
        place = place_of(kind, root)
        if not place.is_file() or place.read_text(encoding="utf-8") != text:
            atomic_write_text(place, text)
            changed.append(kind)
    return changed


def graph_of(params: Params) -> Lock:
    """Segments, cold starts and targets, each as its stage reads it."""
    dump = {"cold_start": {}} | params.model_dump(mode="json")
    return {key: dump[key] for key in ("segments", "cold_start", "targets")}


def place_in_graph(stage: str, graph: Lock) -> Lock:
    """What of the graph decides a stage's numbers: an evaluation's target; of a segment itself and
    the segments before it, whose rounds it counts on from."""
    kind, _, key = stage.partition("@")
    if kind == "evaluate":
        return {"targets": {key: graph["targets"].get(key)}}
    if kind != "train":
        return {}
    found, segments = {}, graph["segments"]
    while key in segments and key not in found:
        found[key] = segments[key]
        key = segments[key]["prev"]
    return {"segments": found}


def differences(before: Lock, now: Lock) -> list[str]:
    """What changed, in words: `update.epochs: 1 -> 2`, `hapo_core.gate was edited`."""
    lines = changed_values(before.get("parameters", {}), now.get("parameters", {}))
    for part in ("modules", "user_code", "files", "packages", "inputs"):
        a, b = before.get(part, {}), now.get(part, {})
        for name in sorted(a.keys() | b.keys()):
            if a.get(name) == b.get(name):
                continue
            if part == "packages":
                lines.append(f"{name}: {a.get(name, '(none)')} -> {b.get(name, '(none)')}")
            else:
                what = "is new" if name not in a else "is gone" if name not in b else "was edited"
                lines.append(f"{name} {what}")
    return lines
