"""The reference page of all keys of params.yaml, made from the sections' own docstrings.

`python -m pipeline.config.reference` prints it; `make reference` writes docs/configuration.md.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.config.params import Params

_HEAD = """\
# All keys of params.yaml

Made by `make reference` from the docstrings in `pipeline/config/`, and from those of the core's own
classes that stand in it; a test fails when it is stale.
Sections in the order of the file; a key without a default must be given, an unknown key is
refused with the nearest valid name. Where a key takes one of several sections, `kind` chooses.
"""


def reference() -> str:
    """The page, as Markdown."""
    parts = [_HEAD]
    for path, section in _sections():
        parts.append(
            f"\n## `{path}`: {section.__name__}\n\n{_paragraph(inspect.getdoc(section))}\n\n"
        )
        parts += [_key(section, name, field) for name, field in section.model_fields.items()]
    return "".join(parts)


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section once, under the first path that leads to it, parents before children."""
    seen: set[type[BaseModel]] = set()
    waiting: list[tuple[str, type[BaseModel]]] = [("params.yaml", Params)]
    while waiting:
        path, section = waiting.pop(0)
        if section in seen:
            continue
        seen.add(section)
        yield path, section
        below = []
        for name, field in section.model_fields.items():
            where = name if section is Params else f"{path}.{name}"
            below += [(where + star, inner) for star, inner in _models(field.annotation)]
        waiting[:0] = below


def _models(annotation: Any, star: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections in a type; `.NAME` stands for the keys of a mapping."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield star, annotation
    mapping = getattr(annotation, "__origin__", None) is dict
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner, star + ".NAME" if mapping else star)


def _key(section: type[BaseModel], name: str, field: FieldInfo) -> str:
    facts = [_type(field.annotation), *_limits(field)]
    if field.is_required():
        facts.append("required")
    else:
        facts.append(f"default {_value(field.get_default(call_default_factory=True))}")
    text = _docstrings(section).get(name, "")
    return _item(f"- `{name}`: {'; '.join(facts)}.{' ' + text if text else ''}")


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    origin = getattr(annotation, "__origin__", None)
    inner: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if origin is None and not inner:
        return str(getattr(annotation, "__name__", annotation))
    if str(annotation).startswith("typing.Literal"):
        return " or ".join(f"`{value}`" for value in inner)
    if origin is dict:
        return f"mapping of names to {_type(inner[1])}"
    if origin in (tuple, list):
        return "list of " + ", ".join(_type(a) for a in inner if a is not ...)
    if hasattr(annotation, "__metadata__"):
        return _type(origin)
    return " or ".join(dict.fromkeys(_type(a) for a in inner))


def _limits(field: FieldInfo) -> Iterator[str]:
    for limit in field.metadata:
        for kind, sign in ((Ge, ">="), (Gt, ">"), (Le, "<="), (Lt, "<")):
            if isinstance(limit, kind):
                yield f"{sign} {getattr(limit, kind.__name__.lower())}"
        if isinstance(limit, MinLen):
            yield f"at least {limit.min_length} long"
        if isinstance(limit, MaxLen):
            yield f"at most {limit.max_length} long"


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "as in its section"
    if value is None or value is PydanticUndefined:
        return "`null`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


@cache
def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    """Attribute -> the string that stands under it in the source."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        made = base.__bases__ and f"_{base.__name__}" == base.__bases__[0].__name__
        if not issubclass(base, BaseModel) or base is BaseModel or made:
            continue  # `made`: a section joined from its base and methods' options has no source
        found |= _under(base.__dict__.get("core") or base)
    return found


def _under(declared: type) -> dict[str, str]:
    """Field -> docstring, of the class in whose source they stand."""
    found: dict[str, str] = {}
    tree = ast.parse(textwrap.dedent(inspect.getsource(declared)))
    assert isinstance(tree.body[0], ast.ClassDef)
    for before, after in pairwise(tree.body[0].body):
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[before.target.id] = " ".join(str(after.value.value).split())
    return found


def _paragraph(text: str | None) -> str:
    return textwrap.fill(" ".join((text or "").split()), 104, break_long_words=False)


def _item(text: str) -> str:
    return (
        textwrap.fill(
            text, 104, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.stdout.write(reference())
