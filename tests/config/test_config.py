"""params.yaml: strict, typed, with errors that name the path and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hapo_core.errors import ConfigError
from hapo_core.gate import AdaptiveThreshold, ConstantThreshold, ScheduledThreshold
from hapo_core.methods.real_weights import RealWeights
from hapo_core.methods.registry import methods
from hapo_core.objective import DAPO, DR_GRPO, GSPO, LUFFY_RELEASE, Aggregation, TeacherShape
from pipeline.build import method as wiring
from pipeline.build.engine import rollout_dtype, server_spec, training_sampling
from pipeline.build.gate import gate_spec
from pipeline.build.objective import objective
from pipeline.build.optimizer import update_spec
from pipeline.config import load_params, parse_params

REPO = Path(__file__).parents[2]
PROFILES = sorted((REPO / "params").glob("*.yaml"))


def _clean():
    return YAML(typ="safe").load((REPO / "params/clean-traces.yaml").read_text())


def _with(changes):
    raw = _clean()
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = raw
        for key in parents:
            section = section[key]
        section[last] = value
    return raw


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_shipped_profiles_are_valid_and_name_themselves(path):
    params = load_params(path)
    assert params.profile == path.stem
    gate_spec(params)
    objective(params)
    update_spec(params)
    training_sampling(params)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout.temprature": 1.0}, ["rollout.temprature", "unknown key", "'temperature'"]),
        ({"sed": 1}, ["sed", "unknown key", "'seed'"]),
        ({"gate.threshold.gama_start": 0.4}, ["gate.threshold", "gama_start", "'gamma_start'"]),
        ({"gate.threshold": {"kind": "constant", "gamma": 1.2}}, ["gamma", "less than 1", "1.2"]),
        ({"gate.threshold": {"kind": "quadratic"}}, ["gate.threshold", "quadratic"]),
        ({"method": "ppo"}, ["method", "'ppo'"]),
        ({"seed": "zero"}, ["seed", "integer"]),
        ({"rollout.group_size": 1}, ["rollout.group_size", "2"]),
        ({"gate.quantile": 0.5}, ["gate", "statistic: quantile"]),
        ({"gate.forgetting": 0.9}, ["gate", "evidence: prompt"]),
        ({"curate.max_trace_tokens": 500}, ["max_trace_tokens", "rollout.max_tokens"]),
        ({"segments": {"1": {"prev": "bse", "rounds": 2}}}, ["segments.1.prev", "'base'"]),
        ({"segments": {1: {"prev": "base", "rounds": 2}}}, ["unquoted", '"1"']),
        ({"targets.final": {"policy": "2"}}, ["targets.final.policy", "'3'", "hapo segments"]),
        ({"train.probe_benchmark": "heldot"}, ["train.probe_benchmark", "'heldout'"]),
        ({"evaluate.benchmarks": {"aime": {"k": 1, "max_tokens": 8}}}, ["aime"]),
        ({"method": "sft_then_rl", "sft.rounds": 0}, ["sft.rounds"]),
        ({"method": "hapo", "objective.dynamic_sampling": 4}, ["dynamic_sampling", "grpo"]),
        ({"method": "bread", "objective.overlong_buffer": 0.2}, ["overlong_buffer", "bread"]),
        ({"method": "real", "objective.preset": "gspo"}, ["objective.ratio_level", "real"]),
        ({"method": "luffy", "gate.holdout": 0.2}, ["gate.holdout", "luffy"]),
        ({"method": "luffy", "gate.max_surprise": 0.2}, ["gate.max_surprise", "luffy"]),
        ({"gate.max_surprise": float("inf")}, ["gate.max_surprise", "finite"]),
        ({"method": "sft", "teacher.trace_choice": "likeliest"}, ["teacher.trace_choice", "sft"]),
        ({"teacher.trace_choice": "likelyest"}, ["teacher.trace_choice", "'likeliest'"]),
        ({"method": "luffy", "teacher.use": "distill"}, ["teacher.use", "luffy"]),
        ({"teacher.distill": {"template": "{problem}"}}, ["teacher.distill", "{solution}"]),
        ({"teacher.distill": {"clip": 0.0}}, ["teacher.distill", "above 0"]),
        ({"gate.stop_loss": {}}, ["gate.stop_loss", "no witness", "train.watch"]),
        ({"gate.stop_loss": {"surprise": 1, "act": "shut"}}, ["gate.stop_loss.act", "'action'"]),
        ({"method": "luffy", "gate.stop_loss": {"surprise": 1}}, ["gate.stop_loss", "luffy"]),
        ({"train.watch": ["heldot"]}, ["train.watch", "'heldout'"]),
        ({"train.watch": ["heldout", "heldout"]}, ["train.watch", "twice"]),
        ({"method": "chord", "teacher.baseline": "own"}, ["teacher.baseline", "chord"]),
        ({"method": "real", "objective.negative_weight": 0.5}, ["negative_weight", "real"]),
        ({"objective.negative_weight": 1.5}, ["negative_weight", "adaptive"]),
        ({"method": "hpt", "teacher.hpt": {"successes": 8}}, ["teacher.hpt.successes", "sft"]),
        ({"teacher.chord": {"variant": "psi"}}, ["teacher.chord.variant", "'mu'"]),
        ({"teacher.prefix_rft": {"high": 0.5}}, ["teacher.prefix_rft", "high"]),
        ({"teacher.relift": {"bufer": 4}}, ["teacher.relift.bufer", "'buffer'"]),
        ({"base": {"kind": "pretrained"}}, ["exactly one of path, hub, gguf_package"]),
        ({"curate.sources": {"x": {"kind": "table"}}}, ["path", "hub"]),
    ],
)
def test_mistakes_are_named(changes, words):
    with pytest.raises(ConfigError) as caught:
        parse_params(_with(changes))
    for word in words:
        assert word in str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="hapo init"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1, 2")
    with pytest.raises(ConfigError, match=r"not valid YAML(.|\n)*params\.yaml"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="no mapping"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("gamma", "side", "method"), [(0.1, "never open", "grpo"), (0.95, "always open", "luffy")]
)
def test_a_gate_out_of_reach_says_which_side(gamma, side, method):
    threshold = {"kind": "constant", "gamma": gamma}
    params = parse_params(_with({"gate.threshold": threshold}))
    with pytest.raises(ConfigError) as caught:
        gate_spec(params)
    assert side in str(caught.value) and method in str(caught.value)
    gate_spec(parse_params(_with({"gate.threshold": threshold, "method": "grpo"})))
    allowed = {"gate.threshold": threshold, "gate.allow_unreachable": True}
    gate_spec(parse_params(_with(allowed)))


def test_wiring_carries_every_setting():
    spec = gate_spec(parse_params(_clean()))
    assert spec.threshold == AdaptiveThreshold(0.5, 1.0, 0.9)
    constant = parse_params(_with({"gate.threshold": {"kind": "constant", "gamma": 0.3}}))
    assert gate_spec(constant).threshold == ConstantThreshold(0.3)
    linear = {"kind": "linear", "gamma_start": 0.6, "gamma_end": 0.1, "horizon": 30}
    threshold = gate_spec(parse_params(_with({"gate.threshold": linear}))).threshold
    assert isinstance(threshold, ScheduledThreshold)
    assert [round(threshold.at(t), 3) for t in (0, 15, 30, 99)] == [0.6, 0.35, 0.1, 0.1]
    luffy = objective(parse_params(_with({"objective": {"preset": "luffy"}})))
    assert (luffy.aggregation, luffy.clip) == (Aggregation.CONSTANT, None)
    assert luffy.entropy_coefficient == LUFFY_RELEASE.entropy_coefficient == 0.001
    mixed = {"objective": {"preset": "luffy", "clip": [0.2, 0.28], "aggregation": "seq_mean"}}
    what = objective(parse_params(_with(mixed | {"teacher.shape": "prob"})))
    assert what.clip == (0.2, 0.28) and what.aggregation is Aggregation.SEQ_MEAN
    assert what.teacher_shape is TeacherShape.PROB
    assert objective(parse_params(_with({"objective.clip": "off"}))).clip is None


def test_every_method_is_wired_with_its_papers_defaults():
    from hapo_core.gate import GateState
    from hapo_core.objective import Surrogate

    objectives = {}
    for name in methods():
        changes = {"method": name, "sft.rounds": 1}
        params = parse_params(_with(changes))
        method = wiring.method(params, GateState(), {}, ["a", "b"], ["a"])
        assert type(method).__name__.lower() == name.replace("_", "")
        assert method.waiting == (["a"] if name == "relift" else [])
        objectives[name] = objective(params)
    assert objectives["srft"].surrogate is Surrogate.LOG
    assert objectives["prefix_rft"].prefix_share == 0.2
    real = objectives["real"]
    assert (real.surrogate, real.aggregation, real.coupling) == (
        Surrogate.SCORE,
        Aggregation.GROUP_MEAN,
        RealWeights(0.5),
    )
    assert objectives["grpo"] == objectives["hapo"] == objectives["bread"]


def test_presets_bring_what_belongs_to_them():
    for name, preset in (("dapo", DAPO), ("dr_grpo", DR_GRPO), ("gspo", GSPO)):
        params = parse_params(_with({"method": "grpo", "objective": {"preset": name}}))
        ours = objective(params)
        named = ("advantage", "clip", "aggregation", "ratio_level", "entropy_coefficient")
        assert all(getattr(ours, k) == getattr(preset, k) for k in named)
        dynamic, overlong = wiring.dynamic_sampling(params, ["a"]), wiring.soft_overlong(params)
        assert (dynamic is not None) == (overlong is not None) == (name == "dapo")
        if dynamic and overlong:
            assert (dynamic.max_batches, dynamic.groups) == (10, 16)
            assert (overlong.buffer, overlong.weight) == (22, 0.5)  # .2 of 112 tokens
    off = {"preset": "dapo", "dynamic_sampling": "off", "overlong_buffer": "off"}
    params = parse_params(_with({"method": "grpo", "objective": off}))
    assert wiring.dynamic_sampling(params, ["a"]) is wiring.soft_overlong(params) is None


def test_dvc_knows_the_parameters_that_stages_read():
    graph = YAML(typ="safe").load((REPO / "dvc.yaml").read_text())["stages"]
    from pipeline.dependencies.lock import READS

    read = set(READS["train"]) - {"cold_start"}  # params.yaml may have none: in the lock only
    assert set(graph["train"]["do"]["params"]) == {*read, "segments.${key}"}
    assert set(graph["evaluate"]["do"]["params"]) <= set(READS["evaluate"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout.vllm": {"servers": 2}}, ["rollout", "`engine` is hf"]),
        (
            {"rollout.engine": "vllm", "base.heads": 3, "rollout.dtype": "bfloat16"},
            ["rollout", "`vllm.dtype`"],
        ),
        (
            {"rollout.dtype": "bfloat16", "compute.processes": 2, "compute.shard": True},
            ["rollout.dtype", "compute.shard"],
        ),
        ({"rollout.engine": "vlm"}, ["rollout.engine", "'vllm'"]),
        ({"rollout.engine": "vllm", "rollout.top_p": 0.9, "rollout.temperature": 0.7}, ["top_p"]),
        (
            {"rollout.engine": "vllm", "rollout.vllm": {"urls": ["http://x:1"], "servers": 2}},
            ["rollout.vllm", "`urls`"],
        ),
        (
            {"evaluate.engine": "vllm", "evaluate.vllm": {"device": "cuda", "servers": 2}},
            ["evaluate.vllm", "`gpus`"],
        ),
        (
            {"evaluate.engine": "vllm"},
            ["base.heads", "evaluate.engine", "width 24 (96 / 4)", "heads: 1 or 3"],
        ),
        ({"update.mixed_precision": True, "compute.dtype": "bfloat16"}, ["compute.dtype"]),
        ({"compute.dtype": "bfloat16"}, ["compute.dtype", "float32", "update.mixed_precision"]),
        ({"compute.shard": True}, ["compute", "`shard` needs `processes`"]),
        ({"compute.processes": 2, "compute.device": "cuda:1"}, ["compute", "is one GPU"]),
        (
            {"compute.processes": 2, "compute.shard": True, "update.lora": {"rank": 4}},
            ["update.lora", "compute.shard"],
        ),
        ({"update.lora": {"rank": 0}}, ["update.lora.rank"]),
    ],
)
def test_engine_settings_that_contradict_each_other_are_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        parse_params(_with(changes))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({}, "float32"),
        ({"update.mixed_precision": True}, "bfloat16"),
        ({"update.mixed_precision": True, "rollout.dtype": "float32"}, "float32"),
        ({"rollout.dtype": "bfloat16"}, "bfloat16"),
        (
            {"update.mixed_precision": True, "compute.processes": 2, "compute.shard": True},
            "float32",
        ),
    ],
)
def test_rollouts_are_drawn_in_the_dtype_of_the_updates_passes(changes, dtype):
    params = parse_params(_with(changes))
    assert rollout_dtype(params) == dtype
    # What bfloat16 on either side explains is no reason to stop a round.
    low = dtype == "bfloat16" or "update.mixed_precision" in changes
    assert update_spec(params).mismatch_limit == (0.1 if low else 1e-3)


def test_engine_settings_reach_the_server():
    servers = {"environment": "/opt/engine", "threads": 3, "dtype": "bfloat16", "urls": None}
    changes = {"rollout.engine": "vllm", "rollout.vllm": servers, "base.heads": 3}
    params = parse_params(_with(changes))
    spec = server_spec(params.rollout.vllm, params.compute.dtype, 256, 64)
    assert (spec.environment, spec.threads, spec.dtype) == (Path("/opt/engine"), 3, "bfloat16")
    assert (spec.context, spec.rows, spec.processed) == (256, 64, True)
