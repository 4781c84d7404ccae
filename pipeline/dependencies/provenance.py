"""What a result was made with: taken when a stage starts, compared before it publishes, kept.

DVC hashes dependencies after the command has run (treeverse/dvc#11058): alone it would record an
edit that was made in the middle as what the result was made with.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from hapo_core.errors import DataError, HapoError
from pipeline.artifacts import MANIFEST, atomic_write_json, identity, read_json, sha256_file
from pipeline.artifacts.places import ARTIFACTS, output_of
from pipeline.config import PARAMS, Params, load_params, was_read
from pipeline.dependencies import kept
from pipeline.dependencies.closure import stamp_of
from pipeline.dependencies.lock import (
    GRAPH,
    Lock,
    differences,
    files_of,
    graph_of,
    lock_of,
    parameters,
    place_in_graph,
    place_of,
    read_lock,
)
from pipeline.dependencies.releases import version
from pipeline.dependencies.variables import arithmetic

PROVENANCE = ARTIFACTS / "provenance"
RECORDED = (
    "hapo",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "math-verify",
    "sympy",
    "datasketch",
    "peft",
    "reasoning-gym",
)
Tell = Callable[[str], None]
CODE = ("modules", "user_code", "files")
SHOWN = 5
OF = "of"
"""Key of a record: the identity of the artifact that it is about."""


@dataclass
class MadeWith:
    """Parameters, code, packages and inputs of a stage at its start.

    Args:
        stage: the DVC stage's name.
        lock: of its kind, with `inputs` and `packages` of this machine.
        params: as they were when the stage's process read them.
        from_file: whether that was from params.yaml, which is then compared.
        locked: the text of `deps/KIND.json` where it was compared, else None.
    """

    stage: str
    lock: Lock
    inputs: tuple[Path, ...]
    params: Params
    from_file: bool
    locked: str | None = None
    _stamps: dict[str, object] = field(default_factory=dict)
    _data: dict[str, object] = field(default_factory=dict)
    """Stamps of all files of the inputs and sources, from before they were read."""

    def unchanged(self, tell: Tell = lambda text: None) -> None:
        """Compare the code with the start; call it before unfinished work is kept for a rerun.

        A worker or a server that was started after an edit has loaded other code than this process
        (a verifier's after a timeout): what it gave must not be taken up with the old values put
        back. Parameters are in this process since the start: of an edited params.yaml it is only
        told. Where no file was written this costs one question to the file system for each.

        Raises:
            HapoError: code or a source file is another one now.
        """
        now = self._stamped()
        if now == self._stamps:
            return
        kind = self.stage.partition("@")[0]
        changed = _changes(self.lock, lambda: _code(lock_of(kind, self.params)), CODE)
        if changed:
            raise self._refusal(changed)
        if self.from_file and now[str(PARAMS)] != self._stamps[str(PARAMS)]:
            said = _changes(self.lock, self._given_now, ("parameters",))
            if said:
                tell(
                    "params.yaml was edited while the stage runs; put it back before it ends, or "
                    "it is not published:\n  " + "\n  ".join(said)
                )
        self._stamps = now

    def check(self) -> None:
        """Compare with the present; call it before publishing.

        Raises:
            HapoError: something that decides the numbers changed while the stage ran.
        """
        changed = _changes(self.lock, self._now)
        if self.locked is not None and _text(place_of(self.stage.partition("@")[0])) != self.locked:
            changed.append(f"{place_of(self.stage.partition('@')[0])} was replaced")
        changed = changed or self._written()
        if changed:
            raise self._refusal(changed)

    def _written(self) -> list[str]:
        """Files of the inputs and sources that were written meanwhile, though what is hashed of
        them is the same: weights behind an old manifest, or a file that was edited, read and put
        back. Nobody can tell what the stage has read."""
        now = _stamps_of(map(Path, self.lock["files"])) | _stamps_of(self.inputs)
        names = sorted(n for n in now.keys() | self._data.keys() if now.get(n) != self._data.get(n))
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        return [f"{name} was written, or moved and put back" for name in names[:SHOWN]] + more

    def _now(self) -> Lock:
        params = load_params() if self.from_file else self.params
        return _taken(self.stage, params, self.inputs)

    def _given_now(self) -> Lock:
        return {"parameters": stage_parameters(self.stage, load_params())}

    def _refusal(self, changed: list[str]) -> HapoError:
        return HapoError(
            "what decides its numbers changed while the stage ran:\n  " + "\n  ".join(changed),
            where=self.stage,
            remedy="put it back and run the same command: what is finished is kept and used; "
            "or `hapo run` as it is now: the stage starts anew",
        )

    def _stamped(self) -> dict[str, object]:
        kind = self.stage.partition("@")[0]
        paths = [Path(p) for p in self._stamps] or [PARAMS, *files_of(kind, self.params)]
        return {str(p): stamp_of(p) if p.is_file() else None for p in paths}

    def write(self, root: Path = PROVENANCE) -> None:
        """Write `artifacts/provenance/STAGE.json`, with the identity of the artifact beside it."""
        output = output_of(self.stage)
        folder = None if output is None else root.absolute().parents[1] / output
        known = folder is not None and (folder / MANIFEST).is_file()
        of = {OF: identity(folder)} if known and folder is not None else {}
        atomic_write_json(root / f"{self.stage}.json", self.lock | {"stage": self.stage} | of)


def begin(stage: str, params: Params, inputs: Iterable[Path] = ()) -> MadeWith:
    """Take what a stage is made with; refuse where its lock says something else. Call it before
    the first of the inputs and sources is read or compared with its manifest.

    Args:
        inputs: artifacts that it reads, folders (by their manifest) or files.

    Raises:
        HapoError: code or parameters are not those of `deps/KIND.json`: they changed since this
            run began, or the stage was started past DVC.
    """
    kind = stage.partition("@")[0]
    from_file = was_read(params) or (PARAMS.is_file() and load_params() == params)
    paths = tuple(inputs)
    data = _stamps_of(paths)
    taken = _taken(stage, params, paths)
    data |= _stamps_of(map(Path, taken["files"]))
    found = MadeWith(stage, taken, paths, params, from_file, _data=data)
    if not from_file:
        found._stamps = found._stamped()
        return found
    # Since this process read them; of the rest of params.yaml no number depends.
    changed = _changes(taken, found._given_now, ("parameters",))
    locked, graph = read_lock(kind), read_lock(GRAPH)
    if locked is not None:
        found.locked = _text(place_of(kind))
        now = {k: v for k, v in taken.items() if k != "inputs"}
        now["packages"] = {k: taken["packages"].get(k) for k in locked.get("packages", {})}
        own = ("segment", "target")
        now["parameters"] = {k: v for k, v in taken["parameters"].items() if k not in own}
        changed += differences(locked, now)
    if graph is not None:
        here = place_in_graph(stage, graph_of(params))
        changed += differences({"parameters": place_in_graph(stage, graph)}, {"parameters": here})
    if changed:
        raise HapoError(
            "what decides its numbers changed since this run began:\n  "
            + "\n  ".join(dict.fromkeys(changed)),
            where=stage,
            remedy="`hapo run` takes it into account from the first stage that it concerns (with "
            "DVC alone: `dvc repro -f -s deps`, then `dvc repro`); or put it back",
        )
    found._stamps = found._stamped()
    return found


def _changes(
    before: Lock, look: Callable[[], Lock], parts: tuple[str, ...] | None = None
) -> list[str]:
    """What differs now, in words; what cannot be read any more is a change too."""
    try:
        now = look()
    except HapoError as error:
        return [f"{error.where or ''}: {error.what}"]
    except FileNotFoundError as error:  # in the middle of a checkout
        return [f"{error.filename} is gone"]
    if parts is None:
        return differences(before, now)
    return differences({k: before.get(k, {}) for k in parts}, {k: now.get(k, {}) for k in parts})


def _code(lock: Lock) -> Lock:
    return {part: lock[part] for part in CODE}


def _stamps_of(paths: Iterable[Path]) -> dict[str, object]:
    """Of each file, of all files and folders below each folder, and of the artifact's folders
    around a file: to move one away changes nothing of what is in it."""
    found: dict[str, object] = {}
    for path in paths:
        above = list(path.parents)
        whole = next((n for n, f in enumerate(above) if (f / MANIFEST).is_file()), -1)
        for one in (path, *(path.rglob("*") if path.is_dir() else above[: whole + 1])):
            if one.exists():
                found[str(one)] = stamp_of(one)
    return found


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _taken(stage: str, params: Params, inputs: tuple[Path, ...]) -> Lock:
    kind = stage.partition("@")[0]
    found = lock_of(kind, params)
    kept.save()
    found["parameters"] = stage_parameters(stage, params)
    packages = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    given = arithmetic(os.environ)
    found["packages"] = packages | _engine(kind, params) | given
    found["inputs"] = {path.as_posix(): _identity(path) for path in inputs}
    return found


def stage_parameters(stage: str, params: Params) -> Lock:
    """The parameters of the stage's kind, with what is its own."""
    kind, _, key = stage.partition("@")
    found = parameters(kind, params)
    if kind == "train":
        one = params.segments.get(key)
        return found | {"segment": None if one is None else one.model_dump(mode="json")}
    if kind == "evaluate":
        target = params.targets.get(key)
        return found | {"target": None if target is None else target.model_dump(mode="json")}
    return found


def _engine(kind: str, params: Params) -> dict[str, str]:
    """The release of vLLM where servers of its environment generate."""
    if kind not in ("train", "evaluate"):
        return {}
    choice = params.rollout if kind == "train" else params.evaluate
    servers = None if choice is None or choice.engine != "vllm" else choice.vllm
    if servers is None or servers.urls is not None:
        return {}
    pattern = "lib/python*/site-packages/vllm-*.dist-info"
    found = sorted(p.name for p in Path(servers.environment).glob(pattern))
    return {"vllm": found[-1].removeprefix("vllm-").removesuffix(".dist-info")} if found else {}


def _identity(path: Path) -> str:
    file = path / MANIFEST if path.is_dir() else path
    if path.is_dir() and file.is_file():
        return identity(path)
    if not file.is_file():
        raise DataError(
            "an input of the stage is missing",
            where=str(path),
            remedy="`dvc checkout`, or `dvc repro` the stage that writes it",
        )
    return sha256_file(file)


def read_provenance(root: Path = Path()) -> dict[str, dict[str, Any]]:
    """All that is recorded, by stage; empty where an older version made the artifacts."""
    return {p.stem: read_json(p) for p in sorted((root / PROVENANCE).glob("*.json"))}
