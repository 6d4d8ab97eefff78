"""A Sphinx directive that lists every key of a configuration, read from its model as it is.

`{config-reference} clair_apo.clair.GenerateConfig` makes one table a section: the key as YAML and
the command line spell it, its type, its default, and its own docstring. Of a dataclass of
training arguments it lists the fields that the class itself adds.
"""

import dataclasses
import inspect
import json
from collections.abc import Iterator
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from pydantic import BaseModel, WithJsonSchema
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx


class Key(NamedTuple):
    """One key of a configuration."""

    name: str
    kind: str
    default: str
    help: str


class ConfigReference(Directive):
    """`{config-reference} package.Class`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The tables, as nodes."""
        module, _, name = self.arguments[0].rpartition(".")
        config = getattr(import_module(module), name)
        tables = _sections(config) if issubclass(config, BaseModel) else [("", _fields(config))]
        found: list[nodes.Node] = []
        for title, keys in tables:
            if title:
                found.append(nodes.rubric(text=title))
            text = StringList(list(_markdown(list(keys))), source=self.arguments[0])
            holder = nodes.container()
            self.state.nested_parse(text, self.content_offset, holder)
            found.extend(holder.children)
        return found


def _sections(model: type[BaseModel]) -> Iterator[tuple[str, Iterator[Key]]]:
    """The keys of a config that are values, then each of its sections.

    Of a mapping or list of sections the key itself stands among the values, and those of a section
    have `NAME` or `N` for its place.
    """
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    sections = {name: _section(kind) for name, kind in kinds.items()}
    plain = [name for name, found in sections.items() if found is None or _place(kinds[name])]
    yield "", (_key(model, name) for name in plain)
    for name, section in sections.items():
        if section is not None:
            prefix = f"{name}.{_place(kinds[name])}"
            keys = (_key(section, inner, prefix) for inner in section.model_fields)
            yield f"{name}: {_first_line(section)}", keys


def _place(annotation: Any) -> str:
    """What stands for the name or number of a section among several; empty for a single one."""
    origin = get_origin(annotation)
    return "NAME." if origin is dict else "N." if origin in (tuple, list) else ""


def _section(annotation: Any) -> type[BaseModel] | None:
    kinds = [annotation, *get_args(annotation)]
    models = [k for k in kinds if inspect.isclass(k) and issubclass(k, BaseModel)]
    return models[0] if models else None


def _key(model: type[BaseModel], name: str, prefix: str = "") -> Key:
    field = model.model_fields[name]
    if field.default_factory is not None:
        default = _spelled(field.get_default(call_default_factory=True))
    elif field.default is PydanticUndefined:
        default = "required"
    else:
        default = _spelled(field.default)
    schemas = [part.json_schema for part in field.metadata if isinstance(part, WithJsonSchema)]
    choices = [choice for schema in schemas for choice in (schema or {}).get("enum", ())]
    kind = _kind(Literal[tuple(choices)] if choices else field.annotation)
    return Key(prefix + name, kind, default, field.description or "")


def _fields(config: type[Any]) -> Iterator[Key]:
    """The fields that a dataclass adds to what it inherits, or gives another default."""
    own = config.__annotations__
    for field in dataclasses.fields(config):
        if field.name in own:
            factory = field.default_factory
            made = field.default if factory is dataclasses.MISSING else factory()
            yield Key(
                field.name, _kind(field.type), _spelled(made), str(field.metadata.get("help", ""))
            )


_WORDS = {"str": "text", "bool": "true or false", "Path": "path"}
_WORDS |= {"NoneType": "null", "Any": "value", "JsonValue": "value"}


def _kind(annotation: Any) -> str:
    """What may stand there, in words: `text or null`, `` `edits` or `full` ``, `list of text`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, str):
        return annotation
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in parts)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_kind(part) for part in parts))
    if origin is dict:
        return f"mapping of names to {_kind(parts[1])}"
    if origin in (list, tuple):
        inner = ", ".join(dict.fromkeys(_kind(part) for part in parts if part is not Ellipsis))
        return f"list of {inner}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    name = getattr(annotation, "__name__", str(annotation))
    return _WORDS.get(name, name)


def _spelled(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(value, default=str)}`"


def _first_line(section: type[BaseModel]) -> str:
    return (inspect.getdoc(section) or "").splitlines()[0]


def _markdown(keys: list[Key]) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key in keys:
        cells = (f"`{key.name}`", key.kind, key.default, " ".join(key.help.split()))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("config-reference", ConfigReference)
    return {"parallel_read_safe": True}
