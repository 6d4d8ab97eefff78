"""Reads the files of benchmarks: JSON lists and JSONL, plain or gzip, and tells them apart."""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from clair_apo.errors import DataError
from clair_apo.evaluation.suites.base import EvaluatedModel, OtherFormatError
from clair_apo.files import first_fault

MAX_BYTES = 2**29
"""Of a file of a benchmark, unpacked; the largest known one has 20 MB."""

M = TypeVar("M", bound=BaseModel)


class BenchmarkRow(BaseModel):
    """The base of rows of benchmark files: frozen, with what else stands in them left out."""

    model_config = {"extra": "ignore", "frozen": True}


@dataclass(frozen=True)
class Row:
    """One object of a file.

    Attributes:
        where: the file and the line, or the row of a list.
        values: the object.
    """

    where: str
    values: Mapping[str, Any]

    def read(self, kind: type[M]) -> M:
        """The row as a record.

        Raises:
            DataError: a field is missing or wrong; names file, row and field.
        """
        try:
            return kind.model_validate(self.values)
        except ValidationError as error:
            fault = first_fault(error).removeprefix("the line: ")
            fault = fault.replace("Field required", "is missing")
            raise DataError(f"{self.where}: {fault}") from None


@dataclass(frozen=True)
class Format:
    """What tells the files of one benchmark from others.

    Attributes:
        name: what such a file is, for messages.
        fields: every row has them.
    """

    name: str
    fields: tuple[str, ...]

    def fits(self, rows: Sequence[Row]) -> bool:
        """Whether a file is of this format: one of its first rows has all the fields."""
        return any(all(name in row.values for name in self.fields) for row in rows[:20])


MIXEVAL = Format("MixEval answers", ("problem_type", "benchmark_name"))
ANNOTATIONS = Format("AlpacaEval annotations", ("instruction", "output_1", "output_2"))
OUTPUTS = Format("AlpacaEval outputs", ("instruction", "output"))
GSM8K_SOLUTIONS = Format("GSM8K solutions", ("question", "ground_truth"))
GSM8K_TEST = Format("GSM8K questions", ("question", "answer"))
ANSWERS = Format("answers to prompts", ("prompt", "answer"))
FORMATS = (MIXEVAL, ANNOTATIONS, OUTPUTS, GSM8K_SOLUTIONS, GSM8K_TEST, ANSWERS)


def read_text(path: Path) -> str:
    """The text of a file, unpacked where its name ends in `.gz`.

    Raises:
        DataError: it cannot be read or unpacked, is too large, or is no UTF-8.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason})") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MiB; not a file of a benchmark")
    return text


def read_rows(path: Path) -> list[Row]:
    """The objects of a JSON list or of a JSONL file.

    Raises:
        DataError: the file cannot be read, holds something else, or holds nothing.
    """
    text = read_text(path)
    rows = _listed(path, text) if text.lstrip().startswith("[") else _by_line(path, text)
    if not rows:
        raise DataError(f"{path}: holds no rows")
    for row in rows:
        if not isinstance(row.values, dict):
            found = type(row.values).__name__
            raise DataError(f"{row.where}: expected a JSON object, found {found}")
    return rows


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file with one object, such as ids with their items.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    content = _json(str(path), read_text(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def recorded_rows(model: EvaluatedModel, kind: Format) -> list[Row]:
    """The rows of those of a model's recorded files that are of one format.

    Raises:
        OtherFormatError: none of the files is; the message says what they look like.
        DataError: a file cannot be read.
    """
    files = {path: read_rows(path) for path in model.recorded}
    fitting = [rows for rows in files.values() if kind.fits(rows)]
    if not fitting:
        path, rows = next(iter(files.items()))
        raise OtherFormatError(
            model.name,
            f"models.{model.name}: {path}: {_looks_like(rows)}; expected {kind.name}, "
            f"whose rows have {_quoted(kind.fields)}",
        )
    return [row for rows in fitting for row in rows]


def _looks_like(rows: Sequence[Row]) -> str:
    found = next((kind.name for kind in FORMATS if kind.fits(rows)), None)
    if found:
        return f"looks like {found}"
    return f"the first row has {_quoted(tuple(rows[0].values)[:8]) or 'no fields'}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _listed(path: Path, text: str) -> list[Row]:
    content = _json(str(path), text)
    return [Row(f"{path}: row {number}", values) for number, values in enumerate(content, 1)]


def _by_line(path: Path, text: str) -> list[Row]:
    return [
        Row(f"{path}:{number}", _json(f"{path}:{number}", line))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}" if "\n" in text else ""
        raise DataError(f"{where}: not JSON ({error.msg}{place})") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets without end
        raise DataError(f"{where}: not JSON ({error})") from None
