"""Reads and writes files of records, and tells a record's columns.

Files are read line by line, and written whole or not at all.
"""

import errno
import io
import json
import os
import types
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import (
    IO,
    Annotated,
    Any,
    BinaryIO,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, ValidationError

from clair_apo.errors import DataError, WriteError
from clair_apo.records import Record

_PLAIN = {str: "string", int: "int64", float: "float64", bool: "bool"}

R = TypeVar("R", bound=Record)


def read_jsonl(path: Path, kind: type[R]) -> Iterator[R]:
    """Read records of one kind from a JSONL file, one at a time.

    Raises:
        DataError: names file, line and what was expected.
    """
    for number, line in _numbered_lines(path):
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            raise DataError(
                f"{path}:{number}: not a {kind.__name__}: {first_fault(error)}"
            ) from None


def read_json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read foreign JSONL as (line number, object).

    Raises:
        DataError: names file and line where a line is not a JSON object in UTF-8.
    """
    for number, line in _numbered_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            raise DataError(f"{path}:{number}: not JSON ({reason})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    # Windows editors begin a UTF-8 file with a byte order mark
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}:{number}: not UTF-8 text") from None


class _File(io.TextIOWrapper):
    """A text file whose write errors name it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        super().__init__(file, encoding="utf-8", newline="\n")

    def write(self, text: str, /) -> int:
        with _write_errors(self._path):
            return super().write(text)

    def close(self) -> None:
        with _write_errors(self._path):
            super().close()


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _write_error(path, error) from None


def _write_error(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"{path}: cannot be written ({error.strerror or error}); {advice_on_writing(error)}, then "
        "run the same command again"
    )


def advice_on_writing(error: OSError) -> str:
    """The advice to a user who cannot write a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free space there or name another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make it writable or name another folder"
    return "name another folder, or mend what that one lies on"


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """A text file that appears under its name whole, when the block ends, or not at all.

    Raises:
        WriteError: it cannot be written; an older file under its name is as it was.
    """
    # not tempfile's, which nobody else may read: the process's umask decides
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with _write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _File(path, temporary.open("xb"))
        with file:
            yield file  # what goes wrong in the block for other reasons is no fault of this file
            with _write_errors(path):
                file.flush()
                os.fsync(file.fileno())
        with _write_errors(path):
            temporary.replace(path)
    finally:
        with suppress(OSError):  # where it could not be made there is none
            temporary.unlink(missing_ok=True)


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSONL, whole or not at all; returns how many."""
    count = 0
    with atomic_writer(path) as file:
        for record in records:
            file.write(record.model_dump_json() + "\n")
            count += 1
    return count


def first_fault(error: ValidationError, known: Collection[str] = ()) -> str:
    """The first fault of a pydantic error as `key: what is wrong`.

    Args:
        error: what pydantic raised.
        known: dotted keys; a part of the fault's place that leads to none of them is left out, such
            as the name of the section that pydantic took a value for.
    """
    fault = error.errors()[0]
    where = ""
    for part in fault["loc"]:
        longer = f"{where}.{part}" if where else str(part)
        if not known or not where or longer in known or part == fault["loc"][-1]:
            where = longer
    return f"{where or 'the line'}: {fault['msg'].removeprefix('Value error, ')}"


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
