"""What all sections of params.yaml share."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

T = TypeVar("T")


class Section(BaseModel):
    """Base of all sections: no unknown keys, no coercion of strings to numbers, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    core: ClassVar[type | None] = None
    """The class of `hapo_core` that declares its keys (`shared`)."""


def shared(core: type, *apart: str) -> type[Section]:
    """A section with the keys of one of the core's own classes: names, ranges, defaults and
    docstrings stand there alone. A section with further keys derives from it.

    Args:
        apart: fields of the class that are no keys, or other ones.
    """
    hints = get_type_hints(core, include_extras=True)
    keys: dict[str, Any] = {
        f.name: (hints[f.name], ... if f.default is MISSING else f.default)
        for f in fields(core)
        if f.name not in apart
    }
    section = create_model(core.__name__, __base__=Section, __module__=__name__, **keys)
    section.core = core
    return section


def core_of(core: type[T], section: Section, **apart: object) -> T:
    """The core's class from a section of its keys, by name; `apart`: what is no key of it."""
    names = [f.name for f in fields(core) if f.name not in apart]  # type: ignore[arg-type]
    return core(**{name: getattr(section, name) for name in names}, **apart)


_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.+=-]{0,98}[A-Za-z0-9_+=-])?")


def checked_name(name: str) -> str:
    """A name becomes a folder, a word of a command and a line of a report: one pattern for all.

    Raises:
        ValueError: it could leave its folder, be read as an option, or by a shell.
    """
    if not _NAME.fullmatch(name) or ".." in name or name.lower().endswith(".partial"):
        raise ValueError(
            f"{name[:60]!r} is no name: letters, digits and _ . + = - (the first one a "
            "letter or digit, no '..'), at most 100 characters"
        )
    return name


Name = Annotated[str, AfterValidator(checked_name)]
"""Of a segment, target, source, benchmark or profile."""

RewardName = Annotated[
    str, Field(pattern=r"^(math|exact|reasoning_gym|math_verify|[A-Za-z_][\w.]*:\w+)$")
]
"""`math`, `exact`, `reasoning_gym`, `math_verify`, or `package.module:function`
(docs/verification.md)."""
