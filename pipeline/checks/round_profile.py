"""`hapo run --profile`: where the time of one round goes.

Two rounds of a segment run in a folder of their own, which is removed afterwards; the first warms
up (servers start, memory is claimed), the second is measured. No artifact is touched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hapo_core.errors import ConfigError
from pipeline.artifacts import MANIFEST, atomic_write_json, read_json, record_pace
from pipeline.artifacts.places import BASE, DATA, POLICIES
from pipeline.config import PARAMS, Params, load_params

FOLDER = Path(".hapo/profile")
WALL = Path("wall.json")
ENGINE_LAPS = ("weights to the engine", "guard")


def profile_round(targets: Sequence[str] = ()) -> int:
    """Measure a round of the named segment (`train@K`), by default the first that can run.

    Raises:
        ConfigError: no such segment, or what it starts from is not there yet.
    """
    params = load_params()
    name = _segment(params, targets)
    previous = POLICIES / params.segments[name].prev
    for needed, stage in ((DATA, "curate"), (previous, _stage_of(params, previous.name))):
        if not (needed / MANIFEST).is_file():
            raise ConfigError(
                f"a round of segment {name} needs the result of stage {stage}",
                where=str(needed),
                remedy=f"`hapo run {stage}` first",
            )
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / POLICIES).mkdir(parents=True)
    try:
        shutil.copy(PARAMS, FOLDER / PARAMS)
        # The starting policy too: adapters need the weights that they belong to.
        for link in dict.fromkeys((DATA, previous, BASE, Path("build"))):
            if link.exists():
                (FOLDER / link).symlink_to(link.resolve())
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "HAPO"))}
        path = [str(Path.cwd()), *filter(None, [kept.get("PYTHONPATH")])]
        env = {**kept, "PYTHONPATH": os.pathsep.join(path)}
        command = [sys.executable, "-m", "pipeline.checks.round_profile", "--segment", name]
        code = subprocess.run(command, cwd=FOLDER, env=env).returncode
        if (FOLDER / WALL).is_file():
            measured = read_json(FOLDER / WALL)
            record_pace(round_s=float(measured["wall_s"]), parts=measured["parts"])
        return code
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


def _stage_of(params: Params, policy: str) -> str:
    if policy == "base":
        return policy
    return f"cold_start@{policy}" if policy in params.cold_start else f"train@{policy}"


def _segment(params: Params, targets: Sequence[str]) -> str:
    if targets:
        name = targets[0].removeprefix("train@")
        params.rounds_before(name)  # refuses names that are none
        return name
    ready = [
        name
        for name, segment in params.segments.items()
        if (POLICIES / segment.prev / MANIFEST).is_file()
    ]
    return ready[0] if ready else next(iter(params.segments))


# --- inside the folder --------------------------------------------------------------------------


def breakdown(
    wall: float, parts: Mapping[str, float], laps: Mapping[str, float]
) -> list[tuple[str, float]]:
    """(what, seconds) of a round, which sum up to `wall`.

    Args:
        parts: seconds by part of the round (`Segment.parts`).
        laps: seconds inside of the update and the engine.
    """
    inside = {name: laps[name] for name in laps if name not in ENGINE_LAPS}
    engine = {name: laps[name] for name in ENGINE_LAPS if name in laps}
    rows = [("generate", parts.get("rollout", 0.0) - sum(engine.values())), *engine.items()]
    rows += [("wait for verdicts", parts.get("verify", 0.0)), ("gate", parts.get("gate", 0.0))]
    rows += [
        *inside.items(),
        ("rest of the update", parts.get("update", 0.0) - sum(inside.values())),
    ]
    rows += [("probe", parts["probe"])] if "probe" in parts else []
    rows += [("disk", parts.get("save", 0.0))]
    return [*rows, ("other", wall - sum(seconds for _, seconds in rows))]


def _measure(params: Params, name: str) -> None:
    from hapo_core.distributed import join
    from hapo_core.rollout.vllm.engine import VLLMEngine
    from pipeline.flows.observer import Observer
    from pipeline.flows.silent import SilentObserver
    from pipeline.train.launch import stay_with_launcher
    from pipeline.train.segment import Segment

    stay_with_launcher()
    ranks = join(params.compute.device)
    observer = Observer(f"train@{name}") if ranks.first else SilentObserver(f"train@{name}")
    segment = Segment(params, name, observer, ranks)
    engine = segment.engine if isinstance(segment.engine, VLLMEngine) else None
    clocks = [segment.updater.laps, *([engine.laps] if engine else [])]
    try:
        segment.round(segment.first_round)
        segment.parts.clear()
        for clock in clocks:
            clock.seconds.clear()
            clock.exact = True
        began = time.monotonic()
        segment.round(segment.first_round + 1)
        wall = time.monotonic() - began
    finally:
        segment.close()
    if ranks.first:
        laps = {n: s for clock in clocks for n, s in clock.seconds.items()}
        print(f"\none round of segment {name}: {wall:.2f} s")
        atomic_write_json(WALL, {"wall_s": wall, "parts": segment.parts})
        for what, seconds in breakdown(wall, segment.parts, laps):
            print(f"  {what:24}{seconds:9.3f} s{100 * seconds / wall:7.1f} %")
    ranks.close()


def main() -> None:
    """In the folder: `python -m pipeline.checks.round_profile --segment K`."""
    parser = argparse.ArgumentParser(prog="pipeline.checks.round_profile")
    parser.add_argument("--segment", required=True)
    name = parser.parse_args().segment
    params = load_params()
    from pipeline.train.launch import is_rank, launch

    if params.compute.processes > 1 and not is_rank():
        launch(params.compute.processes, "pipeline.checks.round_profile", "--segment", name)
    else:
        _measure(params, name)


if __name__ == "__main__":
    from pipeline.flows.stage import stage_main

    stage_main(main)
