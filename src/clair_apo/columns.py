"""The columns of a record's rows: what type each has, by its fields and not by rows at hand.

Arrow, the hub and whoever else wants a schema make theirs of these.
"""

import types
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

_PLAIN = {str: "string", int: "int64", float: "float64", bool: "bool"}


class ListOf(NamedTuple):
    """A list whose items have one type."""

    item: "ColumnType"


class Columns(NamedTuple):
    """Named columns, or the named fields of a nested record."""

    fields: tuple[tuple[str, "ColumnType"], ...]


ColumnType = str | ListOf | Columns
"""`string`, `int64`, `float64` or `bool`, a list, or a nested record."""


def columns_of(record: type[BaseModel]) -> Columns:
    """The columns of a record, in the order of its fields; each may be null."""
    return Columns(tuple((n, _type_of(f.annotation)) for n, f in record.model_fields.items()))


def _type_of(annotation: Any) -> ColumnType:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Annotated:
        return _type_of(args[0])
    if origin in (Union, types.UnionType):
        return _type_of(next(part for part in args if part is not types.NoneType))
    if origin is tuple:
        return ListOf(_type_of(args[0]))
    if origin is Literal:
        return _type_of(type(args[0]))
    assert isinstance(annotation, type), annotation
    if issubclass(annotation, StrEnum):
        return "string"
    assert issubclass(annotation, BaseModel), annotation
    return columns_of(annotation)
