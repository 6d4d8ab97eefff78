"""Items of MixEval: from the benchmark's files or from recorded answers, and what a model is asked.

Files are as MixEval publishes them: `mixeval-<version>/mixeval-hard/free-form.json` and
`multiple-choice.json`, each an object of ids and items. One item often stands under several ids,
because several web queries led to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase
from typing import Literal, Self

from pydantic import Field, model_validator

from clair_apo.errors import ConfigError, DataError
from clair_apo.evaluation.suites.base import EvaluatedModel
from clair_apo.evaluation.suites.benchmark_files import (
    MIXEVAL,
    BenchmarkRow,
    Row,
    read_mapping,
    recorded_rows,
)
from clair_apo.records import Conversation, Message, digest

FREE_FORM, MULTIPLE_CHOICE = "free-form", "multiple-choice"
HALVES = (FREE_FORM, MULTIPLE_CHOICE)
STEP_BY_STEP = ("BBH", "GSM8k", "MATH")
"""Benchmarks whose free-form questions ask for the steps before the answer."""


class Item(BenchmarkRow):
    """One question of a file, without its id."""

    problem_type: Literal["free-form", "multiple-choice"]
    benchmark_name: str
    context: str | None = None
    """A passage that the question is about."""
    prompt: str
    options: tuple[str, ...] = ()
    """Of multiple choice, in the order of their letters."""
    target: tuple[str | int, ...] = Field(min_length=1)
    """Free-form: every answer that is right; multiple choice: the number of the option, from 0."""

    @model_validator(mode="after")
    def _has_its_options(self) -> Self:
        if self.problem_type == FREE_FORM:
            return self
        if not 2 <= len(self.options) <= len(ascii_uppercase):
            raise ValueError(f"options: expected 2 to 26 options, found {len(self.options)}")
        right = self.target[0]
        if not isinstance(right, int) or not 0 <= right < len(self.options):
            raise ValueError(f"target: expected the number of an option, found {right!r}")
        return self

    @cached_property
    def digest(self) -> str:
        """The same for rows with the same question; 12 hex digits."""
        return digest([self.problem_type, self.passage, self.prompt, self.options, self.target])[
            :12
        ]

    @property
    def passage(self) -> str:
        """The context; empty where it is none, also where it says so in words."""
        text = (self.context or "").strip()
        return "" if text.lower() in ("none", "null") else text

    @property
    def right_letter(self) -> str:
        """The letter of the right option."""
        return ascii_uppercase[int(self.target[0])]

    @property
    def lettered(self) -> str:
        """The options, one a line, each with its letter."""
        lines = zip(ascii_uppercase, self.options, strict=False)
        return "\n".join(f"{letter}. {text}" for letter, text in lines)


@dataclass(frozen=True)
class AnsweredItem:
    """A row of the benchmark with a model's answer, and what a judge said of it before.

    Attributes:
        id: of the row; the same for two models that were asked the same.
        item: the question.
        answer: the model's; None where it gave none, and `failure` says why.
        judge_reply: what a judge replied, where that is recorded.
        judged: the recorded score, 0 to 1, or letter.
        failure: why there is no answer.
    """

    id: str
    item: Item
    answer: str | None
    judge_reply: str | None = None
    judged: float | str | None = None
    failure: str = ""


class _RecordedRow(Item):
    id: str = Field(coerce_numbers_to_str=True)
    response: str
    judge_response: str | None = None
    judge_score: float | None = Field(None, ge=0, le=1)
    judge_option: str | None = Field(None, pattern=r"^[A-Z]$")

    @model_validator(mode="after")
    def _has_what_its_judge_said(self) -> Self:
        name = "judge_score" if self.problem_type == FREE_FORM else "judge_option"
        if self.judge_response is not None and getattr(self, name) is None:
            raise ValueError(f"{name}: is missing beside judge_response")
        return self


def read_items(folder: Path, version: str) -> dict[str, Item]:
    """The rows of MixEval-Hard by their id.

    Args:
        folder: the one that holds `mixeval-<version>`, or the two files themselves.
        version: such as `2024-06-01`.

    Raises:
        ConfigError: the files are not there.
        DataError: a file cannot be read, or an item lacks a field.
    """
    places = (folder / f"mixeval-{version}" / "mixeval-hard", folder)
    found = next((p for p in places if (p / f"{FREE_FORM}.json").is_file()), None)
    if found is None:
        looked = " or ".join(str(place / f"{FREE_FORM}.json") for place in places)
        raise ConfigError(f"data: {folder}: there is no {looked}")
    items: dict[str, Item] = {}
    for half in HALVES:
        path = found / f"{half}.json"
        for id, values in read_mapping(path).items():
            row = Row(f"{path}: row {id!r}", values if isinstance(values, dict) else {})
            item = row.read(Item)
            items[_row_id(id, item)] = item
    return items


def recorded_items(model: EvaluatedModel) -> list[AnsweredItem]:
    """The rows of a model's recorded files, with the recorded judgements where there are any.

    Raises:
        OtherFormatError: the files are those of another benchmark.
        DataError: a row lacks a field, or stands there twice.
    """
    found: dict[str, AnsweredItem] = {}
    for row in recorded_rows(model, MIXEVAL):
        read = row.read(_RecordedRow)
        id = _row_id(read.id, read)
        if id in found:
            raise DataError(f"{row.where}: {id} stands there a second time; name each file once")
        free = read.problem_type == FREE_FORM
        found[id] = AnsweredItem(
            id,
            read,
            read.response,
            judge_reply=read.judge_response,
            judged=read.judge_score if free else read.judge_option,
        )
    return list(found.values())


def conversations(items: Sequence[Item]) -> list[Conversation]:
    """What a chat model is asked: one turn of the user, without examples."""
    return [(Message(role="user", content=_question(item)),) for item in items]


def _question(item: Item) -> str:
    parts = [item.passage] if item.passage else []
    if item.problem_type == MULTIPLE_CHOICE:
        ending = "Reply with the letter of the right option only."
        return "\n".join([*parts, item.prompt, item.lettered, ending])
    if item.benchmark_name in STEP_BY_STEP:
        ending = "Think step by step, then answer the question."
    else:
        ending = "Answer the question briefly."
    return "Question: " + "\n".join([*parts, item.prompt, ending])


def _row_id(id: str, item: Item) -> str:
    """Two models are compared on rows of the same id; another version has other items under it."""
    return f"{item.problem_type}/{id}/{item.digest}"
