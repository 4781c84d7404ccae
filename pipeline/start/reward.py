"""A reward of one's own, `--verifier module:function`: its module lies in the project's folder.

Every stage starts there and finds it; `hapo train` may be started elsewhere (`--dir`).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from hapo_core.errors import ConfigError


def reward_module(verifier: str, folder: Path) -> Path | None:
    """Where the module of a reward of one's own lies in `folder`, which verifying workers then
    look into; None for a reward of hapo's, and for one that is installed.

    Raises:
        ConfigError: the module lies where the project will not find it, or nowhere.
    """
    module, colon, function = verifier.partition(":")
    if not colon:
        return None
    top = module.partition(".")[0]
    if not top.isidentifier() or not function.isidentifier():
        raise ConfigError(
            f"{verifier!r} names no function",
            where="--verifier",
            remedy="--verifier module:function, such as rewards:grade for `grade` of rewards.py",
        )
    mine = _in(folder, top)
    if mine is not None:
        known = filter(None, [os.environ.get("PYTHONPATH")])
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder.resolve()), *known])
        return mine
    here = _in(Path(), top)
    if here is not None:
        raise ConfigError(
            f"{here} is not in the project's folder, where every stage looks for it",
            where="--verifier",
            remedy=f"mkdir -p {folder} && mv {here} {folder}/",
        )
    if find_spec(top) is None:
        raise ConfigError(
            f"there is no module {top!r}",
            where="--verifier",
            remedy=f"{top}.py in the project's folder ({folder.absolute()}), or a package that is "
            "installed beside hapo",
        )
    return None


def _in(folder: Path, name: str) -> Path | None:
    """The module or package of that name."""
    places = (folder / f"{name}.py", folder / name)
    return next((p for p in places if p.is_file() or (p / "__init__.py").is_file()), None)
