"""Tables of what pydantic models take: names, types, bounds, defaults, descriptions."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]

_REF = "#/$defs/"
_FORMATS = {"path": "path", "time": "time", "date-time": "time with its zone"}
_KINDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}


def config_page(title: str, intro: str, model: type[BaseModel], example: str = "") -> str:
    """Return a page of a configuration's keys, a section for each part of it."""
    schema = model.model_json_schema()
    parts = [f"# {title}", intro, f"```yaml\n{example.strip()}\n```" if example else ""]
    for path, part in _sections(schema, schema.get("$defs", {})):
        heading = f"## `{path}`" if path else "## At the top level"
        said = prose(part.get("description", ""))
        parts += [heading, said, _table(part, schema.get("$defs", {}), path)]
    return "\n\n".join(each for each in parts if each) + "\n"


def message_section(model: type[BaseModel], level: int = 3) -> str:
    """Return a section of a message's fields."""
    schema = model.model_json_schema()
    defs = schema.get("$defs", {})
    said = prose(inspect.getdoc(model) or "")
    table = _table(schema, defs, "", attribute_docs(model), links=False)
    return "\n\n".join((f"{'#' * level} {model.__name__}", said, table))


def prose(docstring: str) -> str:
    """Return the text of a docstring as Markdown, without its tables and sections."""
    kept = []
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        if "====" in paragraph or "\n---" in paragraph:
            break
        kept.append(" ".join(paragraph.split()))
    if kept and kept[-1].endswith(":"):
        kept.pop()
    return roles("\n\n".join(kept))


def roles(text: str) -> str:
    """Return reStructuredText's inline marks as Markdown's."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`")


def attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """Return the strings that stand below a model's fields."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = prose(below.value.value)
    return found


def cell(text: str) -> str:
    """Return text that a table's cell can hold."""
    parts = " ".join(text.split()).split("`")
    for index in range(0, len(parts), 2):  # those that are no code
        parts[index] = parts[index].replace("|", "\\|").replace("<", "&lt;")
    return "`".join(parts)


def _sections(schema: Schema, defs: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        if inner := _model_of(field, defs):
            yield from _sections(inner, defs, f"{path}.{name}" if path else name)


def _model_of(field: Schema, defs: Schema) -> Schema | None:
    """Return the schema of a field that is a section of its own, or may be one."""
    for each in (field, *field.get("anyOf", ()), *_inside(field)):
        if "$ref" in each:
            found: Schema = defs[each["$ref"].removeprefix(_REF)]
            if "properties" in found:
                return found
    return None


def _inside(field: Schema) -> Sequence[Schema]:
    """Return the schemas of what a mapping or a list holds."""
    held = (field.get("additionalProperties"), field.get("items"))
    return [each for each in held if isinstance(each, Mapping)]


def _table(
    schema: Schema,
    defs: Schema,
    path: str,
    notes: Mapping[str, str] | None = None,
    *,
    links: bool = True,
) -> str:
    rows = ["| key | takes | default | |", "| --- | --- | --- | --- |"]
    for name, field in schema.get("properties", {}).items():
        said = field.get("description") or (notes or {}).get(name, "")
        where = f"{path}.{name}" if path else name
        is_section = links and _model_of(field, defs) is not None
        if is_section:
            takes = f"[section](#{re.sub(r'[^a-z0-9_-]', '', where.lower())})"
            takes += " or null" if {"type": "null"} in field.get("anyOf", ()) else ""
            own = defs.get(field.get("$ref", "").removeprefix(_REF), {}).get("description", "")
            said = said or prose(own).partition("\n")[0]
        else:
            takes = cell(_takes(field, defs))
        rows.append(
            f"| `{name}` | {takes} | {_default(name, field, schema)} | {cell(roles(said))} |"
        )
    return "\n".join(rows) if len(rows) > 2 else ""


def _default(name: str, field: Schema, schema: Schema) -> str:
    if name in schema.get("required", ()):
        return "required"
    value = field.get("default")
    if isinstance(value, dict) and value:
        return "see there"
    return f"`{cell(json.dumps(value, ensure_ascii=False))}`"


def _takes(field: Schema, defs: Schema) -> str:
    if "$ref" in field:
        name = field["$ref"].removeprefix(_REF)
        found = defs[name]
        return name if "properties" in found else _takes(found, defs)
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_takes(each, defs) for each in field["anyOf"]))
    for key in ("enum", "const"):
        if key in field:
            listed = field[key] if key == "enum" else [field[key]]
            return ", ".join(f"`{each}`" for each in listed)
    kind = field.get("type")
    if kind == "null":
        return "null"
    if kind == "array":
        if "prefixItems" in field:
            return f"list: {', '.join(_takes(each, defs) for each in field['prefixItems'])}"
        return f"list of {_takes(field.get('items', {}), defs)}"
    if kind == "object":
        held = field.get("additionalProperties")
        return f"names, each with {_takes(held, defs)}" if isinstance(held, Mapping) else "mapping"
    told = _FORMATS.get(field.get("format", ""), _KINDS.get(str(kind), "anything"))
    if "pattern" in field:
        return f"{told} like `{field['pattern']}`"
    return told + _bounds(field)


def _bounds(field: Schema) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}"
    parts = [
        f"{word} {_number(value)}"
        for word, value in (
            ("at least", low),
            ("above", above),
            ("at most", high),
            ("below", below),
        )
        if value is not None
    ]
    return f", {', '.join(parts)}" if parts else ""


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) >= 1e7 or isinstance(value, float) else f"{value:,}"
