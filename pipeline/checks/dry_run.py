"""`hapo run --dry-run`: resolve everything, look at data, engine and disk, show the plan."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hapo_core.errors import DataError, HapoError
from pipeline.artifacts import human_bytes, known_timings
from pipeline.artifacts.places import expanded
from pipeline.checks import estimates
from pipeline.checks.data import DrySample, curated_verdict
from pipeline.checks.engines import recorded
from pipeline.checks.finding import Finding, Kind, problem
from pipeline.checks.intake import lengths, refusals
from pipeline.checks.memory import memory
from pipeline.checks.plan import stages_to_run, wanted_params
from pipeline.config import (
    ChainsSource,
    GymSource,
    Params,
    PresetSource,
    StoriesSource,
    TableSource,
    TinyBase,
    VllmServers,
)
from pipeline.flows.observer import brief
from pipeline.system.memory import memory_bytes


def dry_run(
    targets: Sequence[str] = (), profile: str | None = None, overrides: Sequence[str] = ()
) -> bool:
    """Print findings and plan of the project in the working directory; False with a problem.

    Nothing is started, downloaded or written. Hub datasets are opened (one row) unless offline.

    Args:
        profile: look at this profile instead of params.yaml.
        overrides: `key.path=value`, as if params.yaml had them.

    Raises:
        ConfigError: no such profile or key, or the result is not valid.
    """
    params = wanted_params(profile, overrides)
    rounds = sum(s.rounds for s in params.segments.values())
    print(
        f"profile {params.profile}, method {params.method}, seed {params.seed}: "
        f"{len(params.segments)} segment(s), {rounds} rounds of {params.train.prompts_per_round} "
        f"prompts x {params.rollout.group_size} responses"
    )
    plan = stages_to_run(targets, params)
    try:
        size, unfit = estimates.policy_size(params), []
    except HapoError as error:
        size, unfit = None, [problem("base", error)]
    found = [*_data(params, plan), *_base(params, plan), *unfit, *_compute(params, size)]
    found += [*_texts(params, size), *_engines(params), *_disk(params, size, plan)]
    for f in found:
        print(f"{f.kind:8}{f.subject}: {f.text}")
    _print_plan(params, plan)
    problems = [f for f in found if f.kind == "PROBLEM"]
    print(f"\n{len(problems)} problem(s); nothing was started")
    return not problems


def _print_plan(params: Params, plan: Sequence[str]) -> None:
    if not plan:
        print("\nnothing to run: everything is up to date")
        return
    timings = known_timings()
    print("\nwould run, in this order:")
    known = [estimates.seconds(params, stage, timings) for stage in plan]
    for stage, wall in zip(plan, known, strict=True):
        print(f"  {stage:20}{'time unknown' if wall is None else 'about ' + brief(wall)}")
    if all(wall is not None for wall in known):
        print(f"  {'together':20}about {brief(sum(w for w in known if w is not None))}")
    else:
        some = sum(wall for wall in known if wall is not None)
        least = f"at least {brief(some)}; " if some else ""
        print(f"  {'together':20}{least}the others are unknown until they have run once")
    if any(stage.startswith("train@") for stage in plan):
        _print_round(params, timings)


def _print_round(params: Params, timings: Mapping[str, Mapping[str, Any]]) -> None:
    """Where the time of a round went, and who waited."""
    parts = estimates.round_parts(params, timings)
    if parts is None:
        print("a round: seconds by part are unknown; `hapo run --profile` measures one")
        return
    listed = sorted(parts.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {s:.3g} s" for name, s in listed if s >= 0.005)
    print(f"a round took {brief(sum(parts.values()))} here: {shown}")
    if params.compute.device.startswith("cuda") or params.rollout.engine == "vllm":
        for who, share in estimates.idle_cards(params, parts):
            print(f"  {who}: idle {share:.0%} of it")


# --- data and base ------------------------------------------------------------------------------


def _data(params: Params, plan: Sequence[str]) -> Iterator[Finding]:
    if "curate" not in plan:
        yield Finding("ok", "data", "curated already (artifacts/data)")
        yield from (_traces(*found) for found in curated_verdict(params))
        return
    sample = DrySample()
    for role, sources in (
        ("source", params.curate.sources),
        ("benchmark", params.curate.benchmarks),
    ):
        for name, source in sources.items():
            subject = f"{role} {name}"
            try:
                yield Finding("ok", subject, _first_row(name, source))
                if role == "source":
                    yield from _sampled(params, name, source, sample)
                yield from refusals(params, name, source, role)
            except HapoError as error:
                yield problem(subject, error)

    yield from lengths(params)
    verdict = sample.verdict(params)
    if verdict is not None:
        yield _traces(*verdict)


def _traces(kind: str, text: str) -> Finding:
    known: dict[str, Kind] = {"ok": "ok", "note": "note"}
    return Finding(known.get(kind, "PROBLEM"), "traces", text)


def _sampled(
    params: Params,
    name: str,
    source: ChainsSource | StoriesSource | GymSource | TableSource | PresetSource,
    sample: DrySample,
) -> Iterator[Finding]:
    """What the verifier says of the first rows of a source on this machine."""
    text, wrong = sample.look(params, name, source)
    if text:
        more = f"{text} (`hapo data check {name}` lists them)"
        yield Finding("PROBLEM" if wrong else "note", f"source {name}", more)


def _first_row(
    name: str, source: ChainsSource | StoriesSource | GymSource | TableSource | PresetSource
) -> str:
    """Read one row and check its columns; what was found.

    Raises:
        HapoError: it is not there, cannot be read, or lacks a column.
    """
    if isinstance(source, ChainsSource | StoriesSource):
        return f"{source.count} generated problems"
    if isinstance(source, GymSource):
        if importlib.util.find_spec("reasoning_gym") is None:
            raise DataError("reasoning-gym is not installed", remedy="pip install reasoning-gym")
        return f"{source.count} problems of reasoning-gym's {source.task}"
    from pipeline.curate.sources.files import data_files, expand, file_rows, row_count
    from pipeline.curate.sources.hub import HubRows
    from pipeline.curate.sources.table import check_columns, find_adapter

    table = source.table() if isinstance(source, PresetSource) else source
    adapter = find_adapter(name, table)
    path = expand(table.path) if table.path is not None else None
    if path is not None and (path.exists() or table.hub is None):
        files = data_files(path)
        row = next(iter(file_rows(files[0])), None)
        counts = [row_count(f) for f in files]
        rows = "" if None in counts else f", {sum(c or 0 for c in counts)} rows"
        size = human_bytes(sum(f.stat().st_size for f in files))
        text = f"{path}: {len(files)} file(s), {size}{rows}"
    else:
        hub = HubRows(table)
        row, text = next(iter(hub.rows()), None), f"hub {hub.where} (downloaded by `curate`)"
    if row is None:
        raise DataError("there is no row", where=text)
    check_columns(row.row, adapter, row.where, True)
    return f"{text}; columns fit adapter {table.adapter}"


def _base(params: Params, plan: Sequence[str]) -> Iterator[Finding]:
    from pipeline.models import gguf_path, pretrained_path

    base = params.base
    if "base" not in plan:
        yield Finding("ok", "base", "there already (artifacts/policy/base)")
    elif isinstance(base, TinyBase):
        yield Finding("ok", "base", f"trained here, {base.steps} steps")
    else:
        try:
            if base.gguf_package is not None:
                yield Finding("ok", "base", str(gguf_path(base)))
            elif base.hub is not None:
                yield _hub_model(base.hub, base.revision)
            else:
                from hapo_core.model_folder import check_model_folder

                path = pretrained_path(base)
                check_model_folder(path)
                yield Finding("ok", "base", str(path))
        except HapoError as error:
            yield problem("base", error)


def _hub_model(hub: str, revision: str | None) -> Finding:
    """Whether a hub model is cached, or how much would be fetched."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError

    cached = try_to_load_from_cache(hub, "config.json", revision=revision)
    if isinstance(cached, str):
        return Finding("ok", "base", f"{hub}: in the hub's cache, {Path(cached).parent}")
    if HF_HUB_OFFLINE:
        return Finding(
            "PROBLEM", "base", f"{hub} is not in the hub's cache, and offline mode is on"
        )
    try:
        info = HfApi().model_info(hub, revision=revision, files_metadata=True, timeout=20)
    except (HfHubHTTPError, OSError) as error:
        return Finding("PROBLEM", "base", f"{hub}: the hub cannot be asked ({error})")
    files = [f for f in info.siblings or () if f.rfilename.endswith(".safetensors")]
    size = human_bytes(sum(f.size or 0 for f in files))
    return Finding("ok", "base", f"{hub}@{str(info.sha)[:12]}: {size} would be fetched")


# --- machine ------------------------------------------------------------------------------------


def _compute(params: Params, size: estimates.Size | None) -> Iterator[Finding]:
    import torch

    c = params.compute
    cuda = c.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        yield Finding("PROBLEM", "compute", f"device {c.device}: there is no GPU here")
    elif cuda and torch.cuda.device_count() < c.processes:
        here = torch.cuda.device_count()
        yield Finding("PROBLEM", "compute", f"{c.processes} processes need a GPU each, {here} here")
    else:
        shape = f"{c.processes} process(es), {c.threads} thread(s) each"
        yield Finding("ok", "compute", f"{c.device}, {c.dtype}, {shape}")
    if size is None:
        yield Finding("note", "memory", "unknown: the base model's shape is not here yet")
        return
    longest = params.curate.max_prompt_tokens + params.rollout.max_tokens
    if size.context is not None and longest > size.context:
        text = f"{longest} tokens of prompt and response, the model takes {size.context}"
        yield Finding("PROBLEM", "context", f"{text}; see base.context, base.rope_theta")
    found = memory(params, size.parameters, size.ends, size.blocks)
    when, need = found.peak
    text = (
        f"{size.parameters / 1e6:.4g}M parameters: about {human_bytes(need)} in the process that "
    )
    text += f"needs most, during {when}"
    if size.blocks is None:
        text += "; activations come on top (no estimate for this kind of model)"
    if cuda and torch.cuda.is_available():
        there, owner = torch.cuda.get_device_properties(0).total_memory, "the GPU"
    elif cuda:
        there, owner = None, ""
    else:
        there, owner = memory_bytes() // c.processes, "this machine, per process,"
    if there is None:
        yield Finding("note", "memory", text)
    else:
        fits: Kind = "ok" if need < there else "PROBLEM"
        yield Finding(fits, "memory", f"{text}; {owner} has {human_bytes(there)}")
    for name, parts in (("update", found.update), ("rollouts", found.rollout)):
        listed = ", ".join(f"{part} {human_bytes(held)}" for part, held in parts.items())
        yield Finding("note", "memory", f"{name}: {listed}")


def _texts(params: Params, size: estimates.Size | None) -> Iterator[Finding]:
    """Whether prompts, turns and budgets fit the starting policy."""
    from hapo_core.fit import vocabulary_fault
    from pipeline.curate.prompts import PromptMaker
    from pipeline.models import tokenizer_here

    if size is not None and size.context is not None:
        for name, spec in params.evaluate.benchmarks.items():
            if spec.max_tokens >= size.context:
                text = f"responses of {spec.max_tokens} tokens, the model takes {size.context}"
                yield Finding("PROBLEM", f"benchmark {name}", f"{text}; see base.context")
    try:
        tokenizer = tokenizer_here(params)
        if tokenizer is None:
            yield Finding("note", "prompts", "unknown: the base model's tokenizer is not here yet")
            return
        maker = PromptMaker(tokenizer, params.curate.prompt_suffix, params.curate.system_prompt)
    except HapoError as error:
        yield problem("prompts", error)
        return
    rows = None if size is None else size.tokens
    fault = None if rows is None else vocabulary_fault(tokenizer, rows)
    if fault is not None:
        yield Finding("PROBLEM", "tokenizer", f"{fault}; put the model's own tokenizer beside it")
    end = str(tokenizer.convert_ids_to_tokens(maker.end))
    said = f"the template writes them; responses end with {end}"
    if maker.end != tokenizer.eos_token_id:
        said += f", as its turns do (the tokenizer names {tokenizer.eos_token})"
    if maker.opening:
        said += f"; traces begin with {maker.opening!r}, as its turns do"
    yield Finding("ok", "prompts", said)


def _engines(params: Params) -> Iterator[Finding]:
    for section, choice in (("rollout", params.rollout), ("evaluate", params.evaluate)):
        if choice.engine == "hf":
            yield Finding("ok", f"{section} engine", "transformers, in the process")
        else:
            yield _servers(f"{section} engine", choice.vllm or VllmServers())


def _servers(subject: str, servers: VllmServers) -> Finding:
    if servers.urls is not None:
        from hapo_core.rollout.vllm.client import Client

        dead = [url for url in servers.urls if not Client(url).answers(5.0)]
        if dead:
            return Finding("PROBLEM", subject, f"no vLLM server answers at {', '.join(dead)}")
        return Finding("ok", subject, f"vLLM at {', '.join(servers.urls)}")
    folder = expanded(servers.environment)
    if not (folder / "bin" / "python").exists():
        return Finding(
            "PROBLEM",
            subject,
            f"no vLLM environment at {folder}; `hapo engine install --{servers.device}` makes one",
        )
    if servers.device == "cuda" and shutil.which("nvidia-smi") is None:
        return Finding("PROBLEM", subject, f"{folder}: its servers need a GPU, none is here")
    packages = recorded(folder).get("packages", ["unknown build"])
    text = f"{servers.servers} vLLM server(s) from {folder} ({', '.join(packages)}); "
    return Finding("ok", subject, text + "`hapo doctor` tries them")


def _disk(params: Params, size: estimates.Size | None, plan: Sequence[str]) -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    if size is None:
        yield Finding("note", "disk", f"{human_bytes(free)} free; the need is unknown yet")
        return
    need = estimates.bytes_on_disk(params, size, plan)
    text = f"at most {human_bytes(need)} of checkpoints and tables, {human_bytes(free)} free"
    yield Finding("ok" if need < free else "PROBLEM", "disk", text)
