"""Suite `gsm8k`: the share of grade-school problems that are solved, in points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from clair_apo.config import UserPath
from clair_apo.errors import ConfigError, DataError
from clair_apo.evaluation.suites.base import (
    EvaluatedModel,
    SuiteConfig,
    SuiteContext,
    SuiteResult,
)
from clair_apo.evaluation.suites.benchmark_files import (
    GSM8K_SOLUTIONS,
    GSM8K_TEST,
    BenchmarkRow,
    Row,
    read_rows,
    recorded_rows,
)
from clair_apo.evaluation.suites.figures import Figure, RowFigure, Unavailable
from clair_apo.evaluation.suites.numbers import read_number
from clair_apo.records import Message, digest

_POINTS = 100.0
_SHOWN = 5
"""Disagreements with recorded verdicts that a remark lists."""
_REQUEST = "Solve the problem step by step. End with a line that holds only #### and the number."


class Gsm8k(SuiteConfig):
    """GSM8K: the last number of a solution against the right one."""

    needs_prompts: ClassVar[bool] = False

    suite: Literal["gsm8k"] = "gsm8k"
    data: UserPath | None = None
    """The file of test problems as GSM8K publishes it, for models that are asked. A recorded
    model needs none: its name is the key of its solutions in the recorded file."""
    max_tokens: int = Field(1024, gt=0)
    """The limit of a solution of a model that is asked."""

    def check(self) -> None:
        """Find out what is wrong with the file of problems.

        Raises:
            ConfigError, DataError: it is missing, or a row is wrong.
        """
        if self.data is not None:
            _problems(self.data)

    def run(self, context: SuiteContext) -> SuiteResult:
        """Read the number of every solution.

        Raises:
            ConfigError, DataError: a file is missing or wrong, in one line.
        """
        solved = {model.name: self._solutions(context, model) for model in context.models}
        recorded = any(one.is_correct is not None for all in solved.values() for one in all)
        return SuiteResult(
            figures={name: _figures(all, recorded) for name, all in solved.items()},
            remarks=[remark for name, all in solved.items() for remark in _remarks(name, all)],
            rows={name: [one.as_row() for one in all] for name, all in solved.items()},
            counts={name: _counts(all) for name, all in solved.items()},
        )

    def _solutions(self, context: SuiteContext, model: EvaluatedModel) -> "list[_Solution]":
        if model.spec is None:
            return _recorded(model)
        if self.data is None:
            raise ConfigError(
                f"suite gsm8k: models.{model.name} is asked, and data names no file of problems"
            )
        problems = _problems(self.data)
        asked = [
            (Message(role="user", content=f"{problem.question}\n\n{_REQUEST}"),)
            for problem in problems
        ]
        answers = context.answers(model, asked, max_tokens=self.max_tokens)
        return [
            _Solution(p.question, p.right, answer.completion.text if answer.completion else None)
            for p, answer in zip(problems, answers, strict=True)
        ]


class _Problem(BenchmarkRow):
    question: str
    answer: str


class _Solved(BenchmarkRow):
    solution: str
    is_correct: bool | None = None


class _SolvedProblem(BenchmarkRow):
    question: str
    ground_truth: str


@dataclass(frozen=True)
class _Right:
    question: str
    right: Fraction


@dataclass(frozen=True)
class _Solution:
    """A problem with a model's solution; `is_correct` as recorded, None where nobody said."""

    question: str
    right: Fraction
    text: str | None
    is_correct: bool | None = None

    @property
    def id(self) -> str:
        return digest(self.question)[:16]

    @cached_property
    def number(self) -> Fraction | None:
        return None if self.text is None else read_number(self.text)

    @property
    def solved(self) -> bool:
        return self.number == self.right

    def as_row(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "question": self.question,
            "solution": self.text,
            "number": None if self.number is None else str(self.number),
            "right": str(self.right),
            "solved": self.solved,
            "is_correct": self.is_correct,
        }


def _problems(path: Any) -> list[_Right]:
    rows = read_rows(path)
    if not GSM8K_TEST.fits(rows):
        raise ConfigError(f"data: {path}: expected GSM8K's problems: question and answer")
    found: dict[str, _Right] = {}
    for row in rows:
        read = row.read(_Problem)
        _refuse_twice(row, read.question, found)
        found[read.question] = _Right(read.question, _right(row, "answer", read.answer))
    return list(found.values())


def _recorded(model: EvaluatedModel) -> list[_Solution]:
    found: dict[str, _Solution] = {}
    for row in recorded_rows(model, GSM8K_SOLUTIONS):
        read = row.read(_SolvedProblem)
        own = row.values.get(model.name)
        if not isinstance(own, dict):
            names = [name for name, value in row.values.items() if isinstance(value, dict)]
            raise ConfigError(
                f"{row.where}: has no solution of {model.name!r}; name the model in the config as "
                f"in the file, which has {', '.join(map(repr, names)) or 'none'}"
            )
        solved = Row(f"{row.where}: {model.name}", own).read(_Solved)
        _refuse_twice(row, read.question, found)
        right = _right(row, "ground_truth", read.ground_truth)
        found[read.question] = _Solution(read.question, right, solved.solution, solved.is_correct)
    return list(found.values())


def _refuse_twice(row: Row, question: str, found: Mapping[str, object]) -> None:
    if question in found:
        raise DataError(f"{row.where}: this question stands there a second time")


def _right(row: Row, name: str, text: str) -> Fraction:
    number = read_number(text)
    if number is None:
        raise DataError(f"{row.where}: {name}: holds no number")
    return number


def _figures(solutions: Sequence[_Solution], recorded: bool) -> dict[str, Figure]:
    figures: dict[str, Figure] = {
        "accuracy": _share({one.id: one.solved for one in solutions if one.text is not None})
    }
    if recorded:
        figures["accuracy_recorded"] = _share(
            {one.id: one.is_correct for one in solutions if one.is_correct is not None}
        )
    return figures


def _share(values: Mapping[str, bool]) -> Figure:
    if not values:
        return Unavailable("the model has no such rows")
    numbers = {id: float(value) for id, value in values.items()}
    return RowFigure(numbers, unit=True, factor=_POINTS)


def _disagreements(solutions: Sequence[_Solution]) -> list[_Solution]:
    return [one for one in solutions if one.is_correct not in (None, one.solved)]


def _counts(solutions: Sequence[_Solution]) -> dict[str, int]:
    different = _disagreements(solutions)
    return {
        "rows": len(solutions),
        "unanswered": sum(one.text is None for one in solutions),
        "without_number": sum(one.text is not None and one.number is None for one in solutions),
        "solved_only_here": sum(one.solved for one in different),
        "solved_only_as_recorded": sum(not one.solved for one in different),
    }


def _remarks(name: str, solutions: Sequence[_Solution]) -> list[str]:
    remarks = []
    if different := _disagreements(solutions):
        shown = "; ".join(
            f"read {one.number}, right {one.right}, recorded as "
            f"{'right' if one.is_correct else 'wrong'}"
            for one in different[:_SHOWN]
        )
        remarks.append(
            f"{name}: {len(different)} of {len(solutions)} recorded verdicts are another than the "
            f"number reader's ({shown})"
        )
    if unanswered := sum(one.text is None for one in solutions):
        remarks.append(f"{name}: {unanswered} problems have no answer and leave the mean")
    return remarks
