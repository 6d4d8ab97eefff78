"""The files of AlpacaEval: annotations, a baseline's outputs, difficulties, gamed rows, weights.

Annotations and outputs are JSON lists as AlpacaEval publishes them, the others its CSV files.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from clair_apo.errors import ConfigError, DataError
from clair_apo.evaluation.suites.base import EvaluatedModel
from clair_apo.evaluation.suites.benchmark_files import (
    ANNOTATIONS,
    OUTPUTS,
    BenchmarkRow,
    read_rows,
    read_text,
    recorded_rows,
)
from clair_apo.evaluation.suites.length_control import GamedRows, LengthWeights
from clair_apo.records import digest

OUTPUTS_FILE = "model_outputs.json"
PUBLISHED_ORDER = "d02007bfbcc8fcf624c641e8b70d53e82f7d0c061d12cf1b5695357e0d0090ce"
"""The digest of AlpacaEval's 805 instructions in their order, by which difficulties are kept."""

_LENGTH, _DIFFICULTY = "np.tanh(std_delta_len)", "instruction_difficulty"
_MODEL = "not_gamed_baseline.astype(float)"


@dataclass(frozen=True)
class Comparison:
    """A model's output beside the baseline's.

    Attributes:
        instruction: what both were asked.
        output: the model's.
        baseline: the baseline's.
        preference: 0 to 1; 1 where the model's is preferred; None where there is no verdict.
        generator: the model's name in the file.
    """

    instruction: str
    output: str
    baseline: str
    preference: float | None
    generator: str = ""

    @property
    def id(self) -> str:
        """The instruction's: two models are compared on the same ones; 16 hex digits."""
        return digest(self.instruction)[:16]


class _Annotation(BenchmarkRow):
    instruction: str
    output_1: str
    output_2: str
    preference: float | None
    generator_2: str = ""

    @model_validator(mode="after")
    def _is_on_the_scale(self) -> Self:
        value = self.preference
        if value is not None and not (math.isnan(value) or value == 0 or 1 <= value <= 2):
            raise ValueError(f"preference: expected 1 (baseline) to 2 (model), found {value:g}")
        return self

    @property
    def share(self) -> float | None:
        if self.preference is None or math.isnan(self.preference):
            return None
        return 0.5 if self.preference == 0 else self.preference - 1  # 0 is a tie of old files


class Output(BenchmarkRow):
    """One row of a file of outputs."""

    instruction: str = Field(min_length=1)
    output: str
    generator: str = ""


def recorded_comparisons(model: EvaluatedModel) -> list[Comparison]:
    """The rows of a model's annotation files.

    Raises:
        OtherFormatError: the files are those of another benchmark.
        DataError: a row lacks a field, is off the scale, or its instruction stands there twice.
    """
    found: dict[str, Comparison] = {}
    for row in recorded_rows(model, ANNOTATIONS):
        read = row.read(_Annotation)
        if read.instruction in found:
            raise DataError(f"{row.where}: this instruction stands there a second time")
        found[read.instruction] = Comparison(
            read.instruction, read.output_2, read.output_1, read.share, read.generator_2
        )
    return list(found.values())


def read_outputs(path: Path) -> list[Output]:
    """The baseline's outputs, in their order.

    Args:
        path: the file, or the folder that holds `model_outputs.json`.

    Raises:
        ConfigError: it is a file of something else.
        DataError: it cannot be read, a row lacks a field, or an instruction stands there twice.
    """
    file = path / OUTPUTS_FILE if path.is_dir() else path
    rows = read_rows(file)
    if not OUTPUTS.fits(rows):
        raise ConfigError(f"data: {file}: expected a baseline's outputs: instruction and output")
    outputs: dict[str, Output] = {}
    for row in rows:
        output = row.read(Output)
        if output.instruction in outputs:
            raise DataError(f"{row.where}: this instruction stands there a second time")
        outputs[output.instruction] = output
    return list(outputs.values())


def positions(comparisons: Sequence[Comparison], reference: Sequence[str]) -> list[int] | None:
    """The place of each comparison's instruction in the order by which difficulties are kept.

    Args:
        comparisons: of one model.
        reference: the instructions in that order; empty where nobody named them: then the rows are
            to be the published ones in their order.

    Returns:
        None where the order is not known.

    Raises:
        DataError: an instruction is not in the reference.
    """
    instructions = [one.instruction for one in comparisons]
    if not reference:
        known = digest(instructions) == PUBLISHED_ORDER
        return list(range(len(instructions))) if known else None
    place = {instruction: number for number, instruction in enumerate(reference)}
    for instruction in instructions:
        if instruction not in place:
            raise DataError(f"the instruction {instruction[:60]!r} is not among those of `data`")
    return [place[instruction] for instruction in instructions]


def read_difficulty(path: Path) -> dict[int, float]:
    """Each instruction's difficulty, by its place in the reference order.

    Raises:
        DataError: the file cannot be read, or a row is wrong.
    """
    found: dict[int, float] = {}
    for row in _csv(path):
        found[row.index()] = row.number(_DIFFICULTY)
    return found


def read_gamed(path: Path, difficulty: Mapping[int, float]) -> GamedRows:
    """The baseline's gamed rows.

    Args:
        path: AlpacaEval's `df_gamed.csv` with the columns `index`, `preference` (0 to 1) and
            `std_delta_len`; or a file of lengths, with `generator`, `index`, `length_baseline`,
            `length_model` and `preference_minus_one`.
        difficulty: of the instructions.

    Raises:
        DataError: the file cannot be read, a row is wrong, or an instruction has no difficulty.
    """
    rows = _csv(path)
    for row in rows:
        if row.index() not in difficulty:
            raise DataError(f"{row.where}: instruction {row.index()} has no difficulty")
    standardised = "std_delta_len" in rows[0].values
    terms = [row.number("std_delta_len") for row in rows] if standardised else _terms(rows)
    column = "preference" if standardised else "preference_minus_one"
    return GamedRows(
        np.asarray(terms),
        np.asarray([difficulty[row.index()] for row in rows]),
        np.asarray([row.number(column, 0, 1) for row in rows]),
    )


def read_weights(path: Path) -> dict[str, LengthWeights]:
    """The published weights of models, by name.

    Raises:
        DataError: the file cannot be read, or a row is wrong.
    """
    return {
        row.first: LengthWeights(row.number(_LENGTH), row.number(_DIFFICULTY), row.number(_MODEL))
        for row in _csv(path)
    }


@dataclass(frozen=True)
class _Line:
    where: str
    values: Mapping[str, str]

    @property
    def first(self) -> str:
        return next(iter(self.values.values()), "")

    def index(self) -> int:
        """The column `index`, or the first one, as pandas writes it without a name."""
        text = self.values.get("index", self.first)
        if not text.isdecimal():
            raise DataError(f"{self.where}: index: expected a whole number, found {text!r}")
        return int(text)

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        text = self.values.get(name)
        if not text:
            raise DataError(f"{self.where}: {name}: is missing")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)):
            raise DataError(f"{self.where}: {name}: expected a number, found {text!r}")
        return value


def _csv(path: Path) -> list[_Line]:
    try:
        table = csv.DictReader(io.StringIO(read_text(path)), restval="")
        rows = [_Line(f"{path}:{n}", row) for n, row in enumerate(table, 2)]
    except csv.Error as error:
        raise DataError(f"{path}: not CSV ({error})") from None
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def _terms(rows: Sequence[_Line]) -> list[float]:
    """Baseline's length minus the model's, in standard deviations of each generator's rows."""
    differences = [row.number("length_baseline") - row.number("length_model") for row in rows]
    names = [row.values.get("generator", "") for row in rows]
    of_name: dict[str, list[float]] = {}
    for name, difference in zip(names, differences, strict=True):
        of_name.setdefault(name, []).append(difference)
    if fixed := [name for name, found in of_name.items() if len(set(found)) < 2]:
        raise DataError(f"{rows[0].where}: the lengths of {fixed[0]!r} do not differ")
    spread = {name: float(np.std(found, ddof=1)) for name, found in of_name.items()}
    return [d / spread[name] for name, d in zip(names, differences, strict=True)]
