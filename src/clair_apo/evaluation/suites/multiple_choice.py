"""The suite `multiple_choice`: which of several answers a model holds for the likeliest.

A probe of knowledge that no judge reads and no format spoils: nothing is generated, the
log-probability of each option as the answer to the question is compared.
"""

from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from clair_apo.config import UserPath
from clair_apo.errors import DataError
from clair_apo.evaluation.suites.base import (
    EvaluatedModel,
    ScoredText,
    SuiteConfig,
    SuiteContext,
    SuiteResult,
)
from clair_apo.evaluation.suites.figures import Figure, RowFigure, Unavailable
from clair_apo.files import first_fault, read_json_rows
from clair_apo.records import Message, Record, digest

Measured = tuple[dict[str, Figure], list[dict[str, Any]]]


class Question(Record):
    """A row of the file."""

    question: str
    options: tuple[str, ...]
    answer: int
    """The place of the right option, from 0."""

    @property
    def id(self) -> str:
        """The same for the same question and options."""
        return digest([self.question, *self.options])[:16]


class MultipleChoice(SuiteConfig):
    """The share of questions whose right option has the highest log-probability."""

    needs_prompts: ClassVar[bool] = False
    suite: Literal["multiple_choice"] = "multiple_choice"
    data: UserPath
    """A JSONL file of `{"question": text, "options": [text, ...], "answer": number}`; the number
    of the right option counts from 0."""

    def check(self) -> None:
        """Read the file before anything is asked."""
        self.questions()

    def questions(self) -> tuple[Question, ...]:
        """The questions of the file.

        Raises:
            DataError: it cannot be read, or a row is no question; names the line.
        """
        found = []
        for number, row in read_json_rows(self.data):
            try:
                one = Question.model_validate(row)
            except ValidationError as error:
                raise DataError(f"{self.data}:{number}: {first_fault(error)}") from None
            if len(set(one.options)) < max(2, len(one.options)):
                raise DataError(f"{self.data}:{number}: needs two or more different options")
            if not 0 <= one.answer < len(one.options):
                raise DataError(
                    f"{self.data}:{number}: answer is {one.answer}, but options are numbered "
                    f"0 to {len(one.options) - 1}"
                )
            found.append(one)
        if not found:
            raise DataError(f"{self.data}: there is no question in it")
        return tuple({one.id: one for one in found}.values())

    def run(self, context: SuiteContext) -> SuiteResult:
        """Score every option under every model in this process."""
        questions = self.questions()
        chance = sum(1 / len(one.options) for one in questions) / len(questions)
        found = {model.name: _measured(context, model, questions) for model in context.models}
        return SuiteResult(
            figures={name: figures for name, (figures, _) in found.items()},
            remarks=[f"by chance {chance:.2f}"],
            rows={name: rows for name, (_, rows) in found.items()},
        )


def _measured(
    context: SuiteContext, model: EvaluatedModel, questions: tuple[Question, ...]
) -> Measured:
    texts = [
        ScoredText((Message(role="user", content=one.question),), option, ended=False)
        for one in questions
        for option in one.options
    ]
    scored = context.log_probs(model, texts)
    if isinstance(scored, Unavailable):
        return {"accuracy": scored, "accuracy_by_token": scored}, []
    tokens = iter(scored)
    each = {one.id: [next(tokens) for _ in one.options] for one in questions}
    sums = {id: [sum(of) for of in options] for id, options in each.items()}
    means = {id: [sum(of) / max(1, len(of)) for of in options] for id, options in each.items()}
    figures: dict[str, Figure] = {
        name: RowFigure(
            {one.id: float(_argmax(found[one.id]) == one.answer) for one in questions}, unit=True
        )
        for name, found in (("accuracy", sums), ("accuracy_by_token", means))
    }
    return figures, [_row(one, sums[one.id]) for one in questions]


def _row(one: Question, sums: list[float]) -> dict[str, Any]:
    return {
        "id": one.id,
        "question": one.question,
        "answer": one.options[one.answer],
        "log_probs": dict(zip(one.options, sums, strict=True)),
    }


def _argmax(values: list[float]) -> int:
    return max(range(len(values)), key=lambda place: values[place])
