"""The reference of all configuration keys, as a Markdown table and as a JSON schema for editors.

Both are made from the typed configuration itself.
"""

from __future__ import annotations

import json
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from audiotag.config import Config
from audiotag.configfile import sections_in, walk_keys


def reference_table(kind: type[BaseModel] = Config) -> str:
    """Key, type, default and meaning of every key of a kind of configuration, one row each.

    Where a section is chosen by `name`, a key that only some choices have names them in brackets.
    """
    choices = {key: sections_in(field.annotation) for key, field, _ in walk_keys(kind)}
    owners: dict[tuple[str, str, str, str], list[str]] = {}
    for key, field, owner in walk_keys(kind):
        if sections_in(field.annotation) and not is_optional(field.annotation):
            continue
        section = choices.get(key.rpartition(".")[0], [])
        kind, default = type_name(field.annotation), default_text(field)
        if key.endswith(".name") and len(section) > 1:
            kind = ", ".join(type_name(choice.model_fields["name"].annotation) for choice in section)
            default = default_text(section[0].model_fields["name"])
        owners.setdefault((key, kind, default, field.description or ""), []).append(owner)
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for (key, kind, default, meaning), sections in owners.items():
        of_some = len(sections) < len(choices.get(key.rpartition(".")[0], []))
        note = f"({', '.join(sections)}) " if of_some else ""
        lines.append(f"| `{key}` | {kind} | {default} | {note}{meaning} |".replace("\n", " "))
    return "\n".join(lines)


def json_schema() -> dict[str, Any]:
    """The schema of a YAML file: all sections, and the `include` that only files have."""
    schema = Config.model_json_schema()
    for section in schema["properties"].values():
        if "oneOf" in section:
            # Without a `name`, which has a default, several choices fit.
            section["anyOf"] = section.pop("oneOf")
            section.pop("discriminator", None)
    schema["properties"]["include"] = {
        "description": "Files, relative to this one, that this one is laid over.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    return schema


def is_optional(annotation: Any) -> bool:
    """Whether null is allowed."""
    return type(None) in typing.get_args(annotation)


def type_name(annotation: Any) -> str:
    """A field's type in the words of a YAML author."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(argument) for argument in arguments))
    if origin in (list, tuple):
        inner = dict.fromkeys(type_name(argument) for argument in arguments)
        return ("pair of " if origin is tuple else "list of ") + ", ".join(inner)
    if annotation is type(None):
        return "null"
    if sections_in(annotation):
        return "section"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true, false"}[annotation.__name__]


def default_text(field: Any) -> str:
    """A field's default as it would stand in YAML."""
    if field.default is PydanticUndefined:
        return "required"
    return f"`{json.dumps(field.default)}`"
