"""The suite `win_rate`: whose answers a judge prefers, asked in both orders.

Without `against` the first model's answers are compared with those of each other model: the first
has as `win_rate` what it wins, the mean over the others where there are several, and each other
model what it wins against the first. With `against` every model's answers are compared with the
given ones. The difference of two models is paired by prompt in both cases.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from clair_apo.advice.ask import CONTROL
from clair_apo.advice.comparisons import Comparison, compare
from clair_apo.advice.decide import in_percent, judge_fault, most_common_text
from clair_apo.agreement import cohens_kappa, why_undefined
from clair_apo.config import UserPath
from clair_apo.evaluation.recorded import recorded_answers
from clair_apo.evaluation.suites.base import EvaluatedModel, SuiteConfig, SuiteContext, SuiteResult
from clair_apo.evaluation.suites.figures import Figure, RowFigure, StatisticFigure, Unavailable
from clair_apo.evaluation.suites.length_control import fit_length_control
from clair_apo.evaluation.suites.prompt_answers import PromptAnswer, answer_prompts, failures
from clair_apo.llm import ModelSpec
from clair_apo.llm.judge import Judge, load_rubric
from clair_apo.records import Prompt
from clair_apo.stats import Interval, bounded_interval, proportion_interval

WIN_RATE, LENGTH_CONTROLLED = "win_rate", "length_controlled_win_rate"
_DRAWS = 200
_SWAPPED = {"first": "second", "second": "first", "tie": "tie", None: None}
_OWN_FIT = (
    "length_controlled_win_rate is AlpacaEval's regression fitted to these comparisons alone, with "
    "two effects, length and model: no difficulty of the prompts and no gamed rows are published "
    "for them, so it compares models here and not with a leaderboard, and where length and quality "
    "go together it takes part of the quality for length"
)


@dataclass(frozen=True)
class Contest:
    """One prompt's answers of two sides, compared; seen from the side `answer`.

    Attributes:
        prompt: its id.
        opponent: who the other side is.
        answer: the text of this side.
        other: that of the other side.
        found: what the judge said of `answer`.
    """

    prompt: str
    opponent: str
    answer: str
    other: str
    found: Comparison

    def swapped(self, opponent: str) -> "Contest":
        """The same from the other side, whose opponent is `opponent`."""
        turned = self.found.model_copy(
            update={
                "shown_first": self.found.shown_second,
                "shown_second": self.found.shown_first,
            }
        )
        return Contest(self.prompt, opponent, self.other, self.answer, turned)


class WinRateSuite(SuiteConfig):
    """Which answers a judge prefers, in both orders, with what is known of the judge."""

    suite: Literal["win_rate"] = "win_rate"
    judge: ModelSpec
    """The model that compares two answers."""
    rubric: UserPath | None = None
    """A text file with the preference in plain words, for the judge."""
    against: UserPath | None = None
    """Given answers that every model is compared with, as rows `{"prompt": ..., "answer": ...}`;
    by default the first model is compared with each other one."""
    controls: int = Field(20, ge=0)
    """For so many prompts the judge is also shown the first model's answer beside a text that
    answers nothing and praises itself; a judge that prefers this text has no figures."""

    def check(self) -> None:
        """Find out what is wrong with the rubric before anything is asked."""
        load_rubric(self.rubric)

    def run(self, context: SuiteContext) -> SuiteResult:
        """Compare the answers, and say in place of figures why a judge's word is none."""
        answers = answer_prompts(context)
        judge = Judge(context.client(self.judge), load_rubric(self.rubric))
        contests = self._contests(context, judge, answers)
        controls = self._controls(context, judge, answers[context.models[0].name])
        found = {name: _Side(own, controls) for name, own in contests.items()}
        figures = {name: side.figures() for name, side in found.items()}
        return SuiteResult(
            figures=figures,
            remarks=(*failures(answers), *_remarks(figures, contests, controls)),
            rows={name: [_row(one) for one in own] for name, own in contests.items()},
            counts={name: side.counts() for name, side in found.items()},
            fault=_unread([one for side in found.values() for one in side.all]),
        )

    def _contests(
        self,
        context: SuiteContext,
        judge: Judge,
        answers: Mapping[str, Sequence[PromptAnswer]],
    ) -> dict[str, list[Contest]]:
        """By model, its answers compared."""
        first, *others = (model.name for model in context.models)
        if self.against is not None:
            given = _given(self.against, context.prompts)
            return {
                name: _compared(context, judge, own, given, "given answers")
                for name, own in answers.items()
            }
        found: dict[str, list[Contest]] = {first: []}
        for name in others:
            one = _compared(context, judge, answers[first], answers[name], name)
            found[first] += one
            found[name] = [contest.swapped(first) for contest in one]
        return found

    def _controls(
        self, context: SuiteContext, judge: Judge, answers: Sequence[PromptAnswer]
    ) -> Interval | None:
        """The share of controls that the judge passed; None where there are none."""
        asked = [one for one in answers if one.text][: self.controls]
        found = context.converse(
            "controls",
            judge.chat,
            [compare(judge, one.conversation, one.text or "", CONTROL) for one in asked],
        )
        return proportion_interval([one.share == 1 for one in found]) if found else None


def _given(path: UserPath, prompts: Sequence[Prompt]) -> list[PromptAnswer]:
    """The given answers to the prompts, in their order."""
    recorded = EvaluatedModel("against", None, (path,))
    answers = recorded_answers(recorded, [prompt.messages for prompt in prompts])
    return [
        PromptAnswer(prompt, answer.completion.text if answer.completion else None)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _compared(
    context: SuiteContext,
    judge: Judge,
    answers: Sequence[PromptAnswer],
    others: Sequence[PromptAnswer],
    opponent: str,
) -> list[Contest]:
    """Two sides' answers to the prompts that both have answered, compared."""
    both = [
        (one, one.text, other.text)
        for one, other in zip(answers, others, strict=True)
        if one.text is not None and other.text is not None
    ]
    found = context.converse(
        f"judging against {opponent}",
        judge.chat,
        [compare(judge, one.conversation, text, other) for one, text, other in both],
    )
    return [
        Contest(one.id, opponent, text, other, said)
        for (one, text, other), said in zip(both, found, strict=True)
    ]


def _unread(contests: Sequence[Contest]) -> str:
    if not contests or any(one.found.share is not None for one in contests):
        return ""
    return (
        "the judge gave no verdict that can be read in any comparison; take a model that answers "
        "in the form that it is asked for"
    )


class _Side:
    """The contests of one model, and its figures."""

    def __init__(self, contests: Sequence[Contest], controls: Interval | None) -> None:
        self.all, self.controls = contests, controls
        self.read = [one for one in contests if one.found.share is not None]

    def figures(self) -> dict[str, Figure]:
        fault = self._fault()
        consistent = self._mean(lambda one: float(one.found.consistent))
        return {
            WIN_RATE: Unavailable(fault) if fault else self._mean(lambda one: one.found.share),
            LENGTH_CONTROLLED: Unavailable(fault) if fault else self._length_controlled(),
            "ties": self._mean(lambda one: float(one.found.share == 0.5 and one.found.consistent)),
            "consistent": consistent,
            "first_place": self._mean(lambda one: one.found.first_place),
            "kappa": self._kappa(),
        }

    def counts(self) -> dict[str, int]:
        return {
            "comparisons": len(self.all),
            "unreadable": len(self.all) - len(self.read),
            "equal_answers": sum(not one.found.asked for one in self.all),
        }

    def _fault(self) -> str:
        """Why the judge's word is no evidence; empty where it is."""
        asked = [one for one in self.read if one.found.asked]
        unreadable = len(self.all) - len(self.read)
        if not asked:
            return "" if self.read else self._nothing()
        if all(one.found.share == 0.5 and one.found.consistent for one in asked):
            return f"the judge never decides: it calls all {len(asked)} comparisons a tie"
        clusters = [one.prompt for one in asked]
        share = bounded_interval([one.found.share or 0.0 for one in asked], clusters=clusters)
        consistent = proportion_interval([one.found.consistent for one in asked], clusters=clusters)
        fault = judge_fault(share, consistent, self.controls, unreadable)
        return fault or self._constant(asked, share)

    def _nothing(self) -> str:
        if not self.all:
            return "there is no prompt that both sides have answered"
        return f"the judge gave no verdict in any of {len(self.all)} comparisons"

    @staticmethod
    def _constant(asked: Sequence[Contest], share: Interval) -> str:
        assert share.low is not None and share.high is not None
        if share.low <= 0.5 <= share.high:
            return ""
        won = {one.prompt: one.answer if share.mean > 0.5 else one.other for one in asked}
        said = most_common_text(won)
        if not said:
            return ""
        return (
            f"the judge is fooled: the side that it prefers says the same text to {said} of "
            f"{len(won)} prompts"
        )

    def _mean(self, value: Callable[[Contest], float | None]) -> Figure:
        """The mean of a value over prompts; over its contests first, where a prompt has several."""
        found: dict[str, list[float]] = {}
        for one in self.read:
            if (number := value(one)) is not None:
                found.setdefault(one.prompt, []).append(number)
        if not found:
            return Unavailable(self._nothing() if not self.read else "no verdict names a side")
        means = {prompt: sum(numbers) / len(numbers) for prompt, numbers in found.items()}
        return RowFigure(means, unit=True)

    def _by_prompt(self) -> dict[str, list[int]]:
        """The numbers of the contests of each prompt."""
        found: dict[str, list[int]] = {}
        for number, one in enumerate(self.read):
            found.setdefault(one.prompt, []).append(number)
        return found

    def _length_controlled(self) -> Figure:
        if not self.read:
            return Unavailable(self._nothing())
        try:
            with _unfinished_fits():
                fit = fit_length_control(
                    [one.found.share or 0.0 for one in self.read],
                    [float(len(one.other) - len(one.answer)) for one in self.read],
                )
        except ValueError as error:
            return Unavailable(str(error))
        numbers = self._by_prompt()

        def win_rate(prompts: Sequence[str]) -> float:
            with _unfinished_fits():
                return fit.win_rate_on([n for prompt in prompts for n in numbers[prompt]])

        return StatisticFigure(list(numbers), win_rate, draws=_DRAWS)

    def _kappa(self) -> Figure:
        """How far the two orders agree on this side's wins, ties and losses, beyond chance."""
        orders = [one.found.shown_first for one in self.read]
        swapped = [_SWAPPED[one.found.shown_second] for one in self.read]
        if not self.read:
            return Unavailable(self._nothing())
        if reason := why_undefined([orders, swapped]):
            return Unavailable(reason)
        numbers = self._by_prompt()

        def kappa(prompts: Sequence[str]) -> float:
            rows = [number for prompt in prompts for number in numbers[prompt]]
            return cohens_kappa([orders[n] for n in rows], [swapped[n] for n in rows])

        return StatisticFigure(list(numbers), kappa)


@contextmanager
def _unfinished_fits() -> Iterator[None]:
    """Say nothing of fits that came to no end.

    Where lengths tell the verdicts apart the weakest penalties that are tried have no optimum; the
    width of the interval shows it.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _remarks(
    figures: Mapping[str, Mapping[str, Figure]],
    contests: Mapping[str, Sequence[Contest]],
    controls: Interval | None,
) -> list[str]:
    lines = []
    for name, own in figures.items():
        rate = own[WIN_RATE]
        opponents = ", ".join(sorted({one.opponent for one in contests[name]})) or "nobody"
        if isinstance(rate, RowFigure):
            lines.append(f"{name} wins {in_percent(rate.interval())} against {opponents}")
        elif isinstance(rate, Unavailable):
            lines.append(f"{name} has no win rate against {opponents}: {rate.reason}")
    if controls is None:
        lines.append("no controls were asked: nobody knows whether the judge reads the answers")
    else:
        lines.append(
            "the judge prefers an answer to a text that answers nothing and praises itself in "
            f"{in_percent(controls)} of the controls"
        )
    return [*lines, _OWN_FIT]


def _row(one: Contest) -> dict[str, Any]:
    return {
        "id": one.prompt,
        "opponent": one.opponent,
        "share": one.found.share,
        "consistent": one.found.consistent,
        "shown_first": one.found.shown_first,
        "shown_second": one.found.shown_second,
        "asked": one.found.asked,
        "characters": len(one.answer),
        "opponent_characters": len(one.other),
    }
