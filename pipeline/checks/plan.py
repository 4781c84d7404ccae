"""Which stages `dvc repro` would run: of params.yaml as it is, or as it would be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hapo_core.errors import ConfigError, HapoError
from pipeline.artifacts.revisions import need_git
from pipeline.checks.status import code_changes
from pipeline.config import PARAMS, Params, load_params, parse_params, profiles
from pipeline.config.overrides import with_overrides
from pipeline.config.yaml import read_yaml
from pipeline.dependencies.provenance import read_provenance
from pipeline.dependencies.watch import STAGE as DEPS


def stages_to_run(targets: Sequence[str] = (), params: Params | None = None) -> list[str]:
    """The stages that `dvc repro` would run, in order: the changed ones and what depends on them.

    Args:
        params: as params.yaml will be; None is as it is.

    Raises:
        HapoError: DVC cannot read the project.
    """
    import networkx as nx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    need_git(Path())
    try:
        with Repo() as repo:
            changed = set(repo.status(targets=list(targets) or None, with_deps=True)) - {DEPS}
            params = params or load_params()
            for stage in repo.index.stages:
                name = stage.addressing
                if name != DEPS and (code_changes(name, params) or _resized(name, params)):
                    changed.add(stage.addressing)
            graph = repo.index.graph  # edges lead from a stage to what it depends on
            wanted = set(graph)
            if targets:
                chosen = {s for t in targets for s in repo.stage.collect(t)}
                wanted = chosen.union(*(nx.descendants(graph, s) for s in chosen))
            first = {s for s in graph if s.addressing in changed}
            runs = first.union(*(nx.ancestors(graph, s) for s in first)) & wanted
            order = nx.lexicographical_topological_sort(
                graph.subgraph(runs).reverse(), key=lambda s: s.addressing
            )
            return _with_segments([s.addressing for s in order], params)
    except DvcException as error:
        raise HapoError(f"DVC cannot say what would run: {error}", where="dvc.yaml") from error


def _resized(stage: str, params: Params) -> bool:
    """Whether a finished segment shall have other rounds."""
    kind, _, name = stage.partition("@")
    made = read_provenance().get(stage) if kind == "train" else None
    if made is None or name not in params.segments:
        return False
    wanted = params.segments[name].model_dump(mode="json")
    return bool(made["parameters"].get("segment") != wanted)


def _with_segments(plan: Sequence[str], params: Params) -> list[str]:
    """The plan with the segments that only overrides name, and without those that they drop."""
    wanted = {f"train@{name}" for name in params.segments}
    wanted |= {f"evaluate@{name}" for name in params.targets}
    there = [s for s in plan if s in wanted or s.partition("@")[0] not in ("train", "evaluate")]
    graph = load_params()
    new = [f"train@{n}" for n in params.segments if n not in graph.segments]
    new += [f"evaluate@{n}" for n in params.targets if n not in graph.targets]
    late = [s for s in there if s in ("evaluate@final", "report")]
    if new:
        late = late or ["evaluate@final", "report"]
    return [*(s for s in there if s not in late), *new, *late]


def wanted_params(profile: str | None, overrides: Sequence[str]) -> Params:
    """params.yaml, or a profile, with overrides; nothing is written.

    Raises:
        ConfigError: no such profile or key, or the result is not valid.
    """
    if profile is None and not overrides:
        return load_params()
    if profile is not None and profile not in profiles.names():
        raise ConfigError(
            f"no profile {profile!r}", where="--use", remedy="one of " + ", ".join(profiles.names())
        )
    place = PARAMS if profile is None else profiles.place_of(profile)
    load_params(place)
    text = with_overrides(place.read_text(encoding="utf-8"), tuple(overrides), str(place))
    return parse_params(read_yaml(text, str(place)), where=str(place))
