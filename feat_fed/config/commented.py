"""A configuration as a file for people: what is set, and every other key with its default.

``##`` explains, in the words of the models; a key behind ``#`` has the value that it has without
the line. Taking one ``# `` away, from a key or from a whole section, leaves valid YAML.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

_WIDTH = 100
_INDENT = "  "
_LEGEND = (
    "`##` explains. A key behind `#` has this value already: take the `# ` away to set another."
)
_OFF = "Off without these lines"


def commented_yaml(model: type[BaseModel], given: Mapping[str, Any], *, heading: str) -> str:
    """Return YAML in which ``given`` is set and every other key is a comment.

    Parameters
    ----------
    given
        Values by field, nested as the models are; an empty mapping turns an optional section on.
    heading
        What the file is; comes first, as a comment.

    Raises
    ------
    KeyError
        If a field without a default is not given.
    """
    parts = [[*_prose(heading), "##", *_prose(_LEGEND)]]
    parts += _fields(model, given, live=True)
    return "\n\n".join("\n".join(each) for each in parts) + "\n"


def _fields(model: type[BaseModel], given: Mapping[str, Any], *, live: bool) -> list[list[str]]:
    """Return the lines of each field; where not ``live``, as a caller will comment them out."""
    return [
        list(_field(name, field, given, live=live)) for name, field in model.model_fields.items()
    ]


def _field(name: str, field: FieldInfo, given: Mapping[str, Any], *, live: bool) -> Iterator[str]:
    section, value = section_of(field), given.get(name)
    is_set = name in given and not (section and value is None)
    if live and field.is_required() and not is_set:
        raise KeyError(f"{name} has no default and was not given")
    words = [field.description or _summary(section), _choices(field)]
    if section and not is_set and field.default is None:
        words.append(_OFF)
    yield from _prose(". ".join(each.strip().rstrip(".") for each in words if each))
    if section is None:
        shown = value if is_set else None if field.is_required() else field.get_default()
        lines = _dump(name, shown)
    else:
        inside = value if value or not is_set else _defaults(section)
        below = _fields(section, inside or {}, live=live and is_set)
        lines = [f"{name}:", *(_INDENT + line for part in below for line in part)]
    yield from (f"# {line}" for line in lines) if live and not is_set else lines


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section of its own, or may be one."""
    kind = field.annotation
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    models = [each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)]
    return models[0] if models else None


def _defaults(section: type[BaseModel]) -> dict[str, Any]:
    fields = section.model_fields.items()
    return {name: field.get_default() for name, field in fields if not field.is_required()}


def _dump(name: str, value: object) -> list[str]:
    if value is PydanticUndefined:
        value = None
    plain = to_jsonable_python(value)
    # Lists of values stay on one line; None would put the field itself on one, too.
    style = None if isinstance(plain, list | dict) else False
    text: str = yaml.safe_dump(
        {name: plain}, default_flow_style=style, allow_unicode=True, sort_keys=False, width=10**6
    )
    return text.splitlines()


def _prose(text: str) -> list[str]:
    lines = textwrap.wrap(text, _WIDTH - 12, break_long_words=False, break_on_hyphens=False)
    return [f"## {line}" for line in lines]


def _summary(section: type[BaseModel] | None) -> str:
    return (inspect.getdoc(section) or "").partition("\n")[0] if section else ""


def _choices(field: FieldInfo) -> str:
    found = [str(each) for each in _literals(field.annotation)]
    return f"One of: {', '.join(found)}" if found else ""


def _literals(kind: object) -> Iterator[object]:
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    else:
        for each in get_args(kind):
            yield from _literals(each)
