"""Names become folders, words of commands and lines of reports: one pattern for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import TOY_PARAMS
from ruamel.yaml import YAML

from hapo_core.errors import ConfigError
from pipeline.commands.serve import serve
from pipeline.compare.cells import named_settings
from pipeline.config import parse_params
from pipeline.config.overrides import ALLOW_CODE, configure
from pipeline.config.section import checked_name
from pipeline.measure.given import ask
from pipeline.run.request import Request
from pipeline.run.targets import check_targets

BAD = (
    "../../precious",
    "../../../../escaped/x",
    "/etc",
    "a/b",
    "a\\b",
    "..",
    ".hidden",
    "-rf",
    "--force",
    "x; touch y",
    "$(id)",
    "`id`",
    "a b",
    "a\nb",
    "<script>",
    "a:b",
    "a@b",
    "",
    "x.partial",
    "a..b",
    "end.",
    "x" * 101,
    "ä",
)


def toy() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(TOY_PARAMS))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("place", ["segments", "targets", "sources", "benchmarks", "profile"])
def test_a_name_that_is_a_path_or_a_shell_word(place: str, name: str) -> None:
    raw = toy()
    if place == "profile":
        raw["profile"] = name
    elif place == "segments":
        raw["segments"] = {name: {"prev": "base", "rounds": 1}}
        raw["targets"]["final"] = {"policy": name}
    elif place == "targets":
        raw["targets"][name] = {"policy": "base"}
    elif place == "sources":
        raw["curate"]["sources"] = {name: raw["curate"]["sources"]["chains"]}
    else:
        raw["curate"]["benchmarks"] = {name: raw["curate"]["benchmarks"]["held_out"]}
        raw["evaluate"]["benchmarks"] = {name: raw["evaluate"]["benchmarks"]["held_out"]}
    with pytest.raises(ConfigError, match="is no name"):
        parse_params(raw)


def test_ordinary_names_and_the_base() -> None:
    for name in ("1", "held_out", "aime-2024", "v1.5", "a+b", "k=8"):
        assert checked_name(name) == name
    raw = toy()
    raw["targets"]["other"] = {"policy": "../../x"}
    with pytest.raises(ConfigError, match=r"targets\.other\.policy"):
        parse_params(raw)


@pytest.mark.parametrize(
    "override",
    [
        "rewards.verifier=os:system",
        "rewards={verifier: 'evil:run'}",
        "curate.sources.mine={kind: files, path: /etc}",
        "rollout.vllm={environment: /tmp/evil, arguments: ['--x']}",
        "rollout.vllm={variables: {LD_PRELOAD: evil}}",
        "loggers.tensorboard={folder: ../x}",
        "base={kind: pretrained, gguf_package: evil, gguf_file: x.gguf}",
        "base={kind: pretrained, hub: gpt2}",
        "compute.attention=someone/kernel",
        "curate.sources.chains.more=['mine:grade']",
    ],
)
def test_code_is_not_named_from_outside(tmp_path: Path, override: str) -> None:
    (tmp_path / "params.yaml").write_text(TOY_PARAMS)
    with pytest.raises(ConfigError):
        configure(None, (override,), tmp_path, person=False)
    assert (tmp_path / "params.yaml").read_text() == TOY_PARAMS


def test_what_is_allowed_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TOY_PARAMS)
    configure(None, ("update.learning_rate=0.5", "method=hapo"), tmp_path, person=False)
    with pytest.raises(ConfigError, match="may not name code"):
        configure(None, ("rewards.verifier=mine:grade",), tmp_path, person=False)
    (tmp_path / ALLOW_CODE).parent.mkdir(exist_ok=True)
    (tmp_path / ALLOW_CODE).touch()
    configure(None, ("rewards.verifier=mine:grade",), tmp_path, person=False)
    assert "mine:grade" in path.read_text()


@pytest.mark.parametrize("name", [n for n in BAD if n != "a:b"])
def test_names_on_the_command_line(name: str) -> None:
    """Labels of cells, benchmarks of `hapo evaluate`, deployments."""
    with pytest.raises(ConfigError, match=r"is no (name|label)"):
        named_settings([], [], [f"{name}:update.learning_rate=1"])
    if "=" not in name:
        with pytest.raises(ConfigError, match="is no name"):
            ask(f"{name}=x.jsonl", {}, {})
    if name:
        with pytest.raises(ConfigError, match="is no name"):
            serve(None, None, name)


@pytest.mark.parametrize("name", ["trian@2", "--force", "../other/dvc.yaml:x", "-h", "train@9"])
def test_a_target_is_a_stage(name: str) -> None:
    with pytest.raises(ConfigError, match="no stage"):
        check_targets(Request(targets=(name,)), Path(__file__).parents[2])
    with pytest.raises(ConfigError, match="no stage"):
        check_targets(Request(force_stage=name), Path(__file__).parents[2])


def test_did_you_mean() -> None:
    with pytest.raises(ConfigError, match="did you mean 'train@2'"):
        check_targets(Request(targets=("trian@2",)), Path(__file__).parents[2])
