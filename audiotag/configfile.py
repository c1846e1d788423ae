"""From YAML files and `--set` to a typed Config, with errors that name the file and the nearest valid key.

A file may name others under `include:` (paths relative to itself); they are merged in order, then the
file's own keys on top. Where a section is chosen by `name`, another name replaces the section whole.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from audiotag.config import Config
from audiotag.errors import ConfigError

Key = tuple[str, ...]
Whole = typing.TypeVar("Whole", bound=BaseModel)

# Plain words in place of pydantic's, by type of error.
MESSAGES = {"missing": "is missing"}


def load_config(
    path: Path | str | None, overrides: typing.Sequence[str] = (), kind: type[Whole] = Config
) -> Whole:
    """Read a YAML file (None: only defaults), apply `key=value` overrides, check everything.

    kind: what the file configures, a recipe unless it says otherwise.
    """
    sources: dict[Key, str] = {}
    tree = read_tree(Path(path), sources) if path is not None else {}
    for override in overrides:
        merge(tree, override_tree(override), f"--set {override}", sources)
    return validate(tree, sources, str(path) if path is not None else "the defaults", kind)


def dump_yaml(config: Config) -> str:
    """The whole resolved configuration as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_tree(path: Path, sources: dict[Key, str], including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One file with its includes merged, as plain dictionaries; fills in which file each key is from."""
    resolved = path.resolve()
    if resolved in including:
        raise ConfigError(f"{path}: includes itself by way of {including[-1]}")
    own = read_yaml(path)
    includes = own.pop("include", [])
    if isinstance(includes, str):
        includes = [includes]
    if not isinstance(includes, list) or not all(isinstance(item, str) for item in includes):
        raise ConfigError(f"{path}: include must be a file name or a list of them, found {includes!r}")
    tree: dict[str, Any] = {}
    for item in includes:
        included = path.parent / item
        if not included.is_file():
            raise ConfigError(f"{path}: included file not found: {item} (looked at {included})")
        inner_sources: dict[Key, str] = {}
        inner = read_tree(included, inner_sources, (*including, resolved))
        merge(tree, inner, str(included), sources)
        sources.update(inner_sources)
    merge(tree, own, str(path), sources)
    return tree


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in one YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"config file not found: {path}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; a YAML file is expected") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    try:
        tree = yaml.load(text, Loader=StrictLoader)  # noqa: S506 (a SafeLoader, see below)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not a configuration: it is nested too deeply") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(tree).__name__}")
    return tree


class StrictLoader(yaml.SafeLoader):
    """A SafeLoader without YAML's surprises.

    A key given twice is refused (YAML silently keeps the last), and only true and false are booleans, so
    that `amp: off` is the word off.
    """

    yaml_implicit_resolvers: typing.ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is not a word", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def override_tree(override: str) -> dict[str, Any]:
    """The nested dictionary of one `a.b=c`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected KEY=VALUE, such as training.epochs=20")
    try:
        value = yaml.load(text, Loader=StrictLoader)  # noqa: S506
    except yaml.YAMLError:
        value = text
    except RecursionError:
        raise ConfigError(f"--set {key}: the value is nested too deeply") from None
    if isinstance(value, dict) and not text.lstrip().startswith("{"):
        value = text  # a text with a colon in it
    for part in reversed(parts):
        value = {part: value}
    return value


def merge(
    tree: dict[str, Any], upper: dict[str, Any], source: str, sources: dict[Key, str], at: Key = ()
) -> None:
    """Lay `upper` over `tree` in place, key by key, and note where every value came from."""
    for key, value in upper.items():
        below = tree.get(key)
        here = (*at, str(key))
        other_choice = (
            isinstance(value, dict)
            and isinstance(below, dict)
            and "name" in value
            and below.get("name", default_name(here)) != value["name"]
        )
        if isinstance(value, dict) and not (isinstance(below, dict) and not other_choice):
            below = tree[key] = {}
        if isinstance(value, dict):
            merge(below, value, source, sources, here)
        else:
            tree[key] = value
        sources[here] = source


def default_name(key: Key) -> str | None:
    """The choice that a section stands for when it has no `name`."""
    field = Config.model_fields.get(key[0]) if len(key) == 1 else None
    return getattr(field.default, "name", None) if field else None


def validate(
    tree: dict[str, Any], sources: dict[Key, str], fallback_source: str, kind: type[Whole] = Config
) -> Whole:
    """The typed configuration of this kind, or a ConfigError about the first thing that is wrong."""
    for name, field in kind.model_fields.items():
        if tree.get(name, ()) is None and isinstance(field.default, BaseModel):
            del tree[name]  # a section whose keys are all commented out
        if isinstance(tree.get(name), dict) and default_name((name,)):
            tree[name].setdefault("name", default_name((name,)))
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        # A misspelt key is the likeliest mistake and explains others (such as a missing one).
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        problem = problems[0]
        key, section = locate(problem["loc"], kind)
        source = next(
            (sources[key[:depth]] for depth in range(len(key), 0, -1) if key[:depth] in sources),
            fallback_source,
        )
        dotted = ".".join(key)
        if problem["type"] == "extra_forbidden":
            raise ConfigError(f"{source}: unknown key '{dotted}'{suggest(key, section, kind)}") from None
        if problem["type"] == "union_tag_invalid":
            tag, expected = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
            raise ConfigError(f"{source}: {dotted}.name is '{tag}', expected one of {expected}") from None
        message = MESSAGES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        found = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
        raise ConfigError(f"{source}: {dotted or 'config'}: {message}{found}") from None


def locate(loc: tuple[int | str, ...], kind: type[BaseModel] = Config) -> tuple[Key, type[BaseModel]]:
    """The dotted key of a pydantic location and the section class that holds it.

    The location of a section chosen by `name` carries the chosen name as an extra part; it is dropped.
    """
    key: list[str] = []
    section: type[BaseModel] = kind
    parts = [str(part) for part in loc]
    while parts:
        part = parts.pop(0)
        key.append(part)
        field = section.model_fields.get(part)
        choices = sections_in(field.annotation) if field else []
        if len(choices) > 1 and parts:
            tag = parts.pop(0)
            choices = [choice for choice in choices if choice.model_fields["name"].default == tag]
        if choices and parts:
            section = choices[0]
    return tuple(key), section


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The section classes that a field's type allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in sections_in(part)]


def suggest(key: Key, section: type[BaseModel], kind: type[BaseModel] = Config) -> str:
    """The nearest valid key in the same section, else a key of that name in another section."""
    near = difflib.get_close_matches(key[-1], section.model_fields, n=1)
    if near:
        return f" (did you mean '{'.'.join((*key[:-1], near[0]))}'?)"
    elsewhere = sorted({name for name, _, _ in walk_keys(kind) if name.split(".")[-1] == key[-1]})
    if elsewhere:
        return f" (did you mean '{elsewhere[0]}'?)"
    return f" (valid here: {', '.join(section.model_fields)})"


def walk_keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every (dotted key, field, section's name) of the configuration, choices one after the other."""
    for name, field in section.model_fields.items():
        choices = sections_in(field.annotation)
        yield prefix + name, field, section.__name__
        for choice in choices:
            yield from walk_keys(choice, f"{prefix}{name}.")
