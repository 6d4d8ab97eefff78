"""Suite `mixeval_hard`: MixEval-Hard with intervals clustered by item, asked or recorded."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from clair_apo.config import UserPath
from clair_apo.errors import ConfigError
from clair_apo.evaluation.suites.base import (
    EvaluatedModel,
    SuiteConfig,
    SuiteContext,
    SuiteResult,
)
from clair_apo.evaluation.suites.benchmark_judge import JudgeSpec, Reply, ask_judge, described
from clair_apo.evaluation.suites.figures import Figure, Unavailable
from clair_apo.evaluation.suites.mixeval_figures import (
    JudgedItem,
    Judgement,
    bounds,
    drift_figures,
    rejudged_figure,
    score_figures,
    unread,
)
from clair_apo.evaluation.suites.mixeval_items import (
    FREE_FORM,
    AnsweredItem,
    Item,
    conversations,
    read_items,
    recorded_items,
)
from clair_apo.evaluation.suites.mixeval_judging import (
    judge_question,
    letter_by_rule,
    read_letter,
    read_score,
)


def _as_text(value: Any) -> Any:
    # YAML takes 2024-06-01 for a date
    return value.isoformat() if isinstance(value, datetime.date) else value


class MixEvalHard(SuiteConfig):
    """MixEval-Hard: free-form answers scored by a judge, multiple choice read by it or by rule."""

    needs_prompts: ClassVar[bool] = False

    suite: Literal["mixeval_hard"] = "mixeval_hard"
    data: UserPath | None = None
    """The folder that holds `mixeval-<version>`, as MixEval publishes it, or the two files of one
    version; models that are asked need it, recorded answers do not."""
    version: Annotated[str, BeforeValidator(_as_text)] = "2024-06-01"
    """The version of the benchmark."""
    judge: JudgeSpec | None = None
    """The judge, at temperature 0 unless it says otherwise. Without one, free-form answers that
    no judge has scored before have no figure, and multiple choice is read by rule."""
    max_tokens: int = Field(512, gt=0)
    """The limit of an answer: the protocol has 512 for chat models in the same process, and 1,536
    for models behind a server."""

    def check(self) -> None:
        """Find out what is wrong with the benchmark's files.

        Raises:
            ConfigError, DataError: they are not there, or an item lacks a field.
        """
        if self.data is not None:
            read_items(self.data, self.version)

    def run(self, context: SuiteContext) -> SuiteResult:
        """Ask or read every model's answers, judge them, and compare judges where two have judged.

        Raises:
            ConfigError, DataError: a file is missing or wrong, in one line.
        """
        # all have answered before one is judged: where a single model is loaded or served at a
        # time, that loads the judge once
        answers = {model.name: self._answers(context, model) for model in context.models}
        rows = {
            model.name: self._judged(context, model, answers[model.name])
            for model in context.models
        }
        return SuiteResult(
            figures=self._figures(rows),
            remarks=[*self._remarks(rows), *_remarks_on_rows(rows)],
            rows={name: [_as_row(one) for one in judged] for name, judged in rows.items()},
            counts={name: _counts(judged) for name, judged in rows.items()},
            fault=_fault([one for judged in rows.values() for one in judged]),
        )

    def _answers(self, context: SuiteContext, model: EvaluatedModel) -> list[AnsweredItem]:
        if model.spec is None:
            return recorded_items(model)
        if self.data is None:
            raise ConfigError(
                f"suite mixeval_hard: models.{model.name} is asked, and data names no folder with "
                "the benchmark's files"
            )
        items = read_items(self.data, self.version)
        answers = context.answers(
            model, conversations(list(items.values())), max_tokens=self.max_tokens
        )
        return [
            AnsweredItem(
                id,
                item,
                answer.completion.text if answer.completion else None,
                failure=answer.failure,
            )
            for (id, item), answer in zip(items.items(), answers, strict=True)
        ]

    def _judged(
        self, context: SuiteContext, model: EvaluatedModel, rows: Sequence[AnsweredItem]
    ) -> list[JudgedItem]:
        today: dict[str, Judgement] = {}
        if self.judge is not None:
            asked = [row for row in rows if row.answer is not None]
            questions = [judge_question(row.item, row.answer or "") for row in asked]
            replies = ask_judge(context, self.judge, questions, f"judging {model.name}")
            today = {row.id: _read(row.item, r) for row, r in zip(asked, replies, strict=True)}
        return [JudgedItem(row, _recorded(row), today.get(row.id), _by_rule(row)) for row in rows]

    def _figures(self, rows: Mapping[str, Sequence[JudgedItem]]) -> dict[str, dict[str, Figure]]:
        found = {name: score_figures(judged) for name, judged in rows.items()}
        if self.judge is not None and any(one.recorded for all in rows.values() for one in all):
            for name, judged in rows.items():
                found[name] |= {"rejudged": rejudged_figure(judged), **drift_figures(judged)}
        names = list(dict.fromkeys(name for figures in found.values() for name in figures))
        absent = Unavailable("this model has no rows of it")
        return {
            model: {name: figures.get(name, absent) for name in names}
            for model, figures in found.items()
        }

    def _remarks(self, rows: Mapping[str, Sequence[JudgedItem]]) -> list[str]:
        remarks = []
        if self.judge is None:
            remarks.append("no judge is asked; recorded judgements count, where there are any")
        else:
            remarks.append(f"the judge is {described(self.judge)}")
        if any(_uses_rule(all) for all in rows.values()):
            remarks.append(
                "multiple choice is read by rule; an answer that names no option is wrong"
            )
        recorded = [name for name, all in rows.items() if any(one.recorded for one in all)]
        if recorded and len(recorded) < len(rows):
            remarks.append(
                f"the judgements of {', '.join(recorded)} are recorded, those of the others are "
                "not: a difference is between two judges as well; compare `rejudged`, which needs "
                "a judge"
            )
        return remarks


def _read(item: Item, reply: Reply) -> Judgement:
    if item.problem_type == FREE_FORM:
        return Judgement(read_score(reply.text), reply=reply.text)
    letter = read_letter(reply.text)
    return Judgement(_score_of(item, letter), letter, reply.text)


def _recorded(row: AnsweredItem) -> Judgement | None:
    if row.judged is None:
        return None
    if isinstance(row.judged, str):
        return Judgement(_score_of(row.item, row.judged), row.judged, row.judge_reply or "")
    return Judgement(row.judged, reply=row.judge_reply or "")


def _by_rule(row: AnsweredItem) -> Judgement | None:
    if row.item.problem_type == FREE_FORM or row.answer is None:
        return None
    letter = letter_by_rule(row.item, row.answer)
    return Judgement(float(letter == row.item.right_letter), letter)


def _score_of(item: Item, letter: str | None) -> float | None:
    return None if letter is None else float(letter == item.right_letter)


def _uses_rule(rows: Sequence[JudgedItem]) -> bool:
    return any(one.rule and one.counted is one.rule for one in rows)


def _at_random(one: JudgedItem) -> bool:
    """Whether the recorded letter was drawn: the reply that came with it names none."""
    recorded = one.recorded
    if recorded is None or recorded.letter is None or one.row.judge_reply is None:
        return False
    return read_letter(recorded.reply) != recorded.letter


def _remarks_on_rows(rows: Mapping[str, Sequence[JudgedItem]]) -> list[str]:
    remarks = []
    for name, judged in rows.items():
        count = _counts(judged)
        if unreadable := count["unreadable"]:
            low, high = bounds(judged)
            remarks.append(
                f"{name}: {unreadable} of {len(judged)} judgements could not be read and leave the "
                f"means; read, they would put the mean of all rows between {low:.1f} and {high:.1f}"
            )
        if drawn := count["letters_at_random"]:
            remarks.append(
                f"{name}: {drawn} recorded letters stand beside replies that name no such option: "
                "MixEval drew them at random; they count as recorded"
            )
        for what in ("unanswered", "unjudged"):
            if number := count[what]:
                remarks.append(
                    f"{name}: {number} of {len(judged)} rows are {what}; they leave the means"
                )
    return remarks


def _fault(rows: Sequence[JudgedItem]) -> str:
    today = [one.today for one in rows if one.today]
    if not today or any(one.score is not None for one in today):
        return ""
    return f"none of the judge's {len(today)} replies could be read"


def _counts(rows: Sequence[JudgedItem]) -> dict[str, int]:
    return {
        "rows": len(rows),
        "items": len({one.row.item.digest for one in rows}),
        "unanswered": sum(one.row.answer is None for one in rows),
        "unjudged": sum(one.row.answer is not None and not one.counted for one in rows),
        "unreadable": len(unread(rows)),
        "letters_at_random": sum(_at_random(one) for one in rows),
        "no_option_by_rule": sum(one.rule is not None and one.rule.letter is None for one in rows),
    }


def _as_row(one: JudgedItem) -> dict[str, Any]:
    item, counted = one.row.item, one.counted
    return {
        "id": one.row.id,
        "item": item.digest,
        "benchmark": item.benchmark_name,
        "half": item.problem_type,
        "answer": one.row.answer,
        "score": counted.score if counted else None,
        "letter": counted.letter if counted else None,
        "right_letter": None if item.problem_type == FREE_FORM else item.right_letter,
        "letter_by_rule": one.rule.letter if one.rule else None,
        "judge_reply": counted.reply if counted else None,
        "score_today": one.today.score if one.today else None,
        "letter_today": one.today.letter if one.today else None,
    }
