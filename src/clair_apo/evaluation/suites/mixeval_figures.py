"""Figures of MixEval: means over rows and over items, one for each benchmark, and judges compared.

All are in points, 0 to 100. Rows of the same item are a cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clair_apo.agreement import cohens_kappa, why_undefined
from clair_apo.evaluation.suites.figures import Figure, RowFigure, StatisticFigure, Unavailable
from clair_apo.evaluation.suites.mixeval_items import FREE_FORM, HALVES, AnsweredItem

_POINTS = 100.0


@dataclass(frozen=True)
class Judgement:
    """What was read of one judgement.

    Attributes:
        score: 0 to 1; None where the reply could not be read.
        letter: of multiple choice, the option that was read.
        reply: what the judge wrote; empty where a rule read the answer.
    """

    score: float | None
    letter: str | None = None
    reply: str = ""


@dataclass(frozen=True)
class JudgedItem:
    """A row with its judgements.

    Attributes:
        row: the question and the answer.
        recorded: the one that came with the answer; None where there is none.
        today: of the config's judge; None where there is no judge or no answer.
        rule: of multiple choice, the letter that a rule reads; None for free-form and no answer.
    """

    row: AnsweredItem
    recorded: Judgement | None = None
    today: Judgement | None = None
    rule: Judgement | None = None

    @property
    def counted(self) -> Judgement | None:
        """The judgement that the figures are of: the recorded one, else today's, else the rule's.

        A judge whose reply could not be read is not replaced by the rule.
        """
        return self.recorded or self.today or self.rule


def score_figures(rows: Sequence[JudgedItem]) -> dict[str, Figure]:
    """The benchmark's figures of one model.

    Args:
        rows: of both halves, in any order.
    """
    scores = {one.row.id: one.counted.score for one in rows if one.counted}
    halves = {half: _half(half, rows, scores) for half in HALVES}
    missing = next((f for f in halves.values() if isinstance(f, Unavailable)), None)
    return {
        "overall": missing or _mean(rows, scores),
        "overall_items": missing or _mean_over_items(rows, scores),
        **{_key(half): figure for half, figure in halves.items()},
        **_of_benchmarks(rows, scores, halves),
        "multiple_choice_by_rule": _by_rule(rows),
    }


def rejudged_figure(rows: Sequence[JudgedItem]) -> Figure:
    """The overall mean under today's judge, whoever has judged before."""
    scores = {one.row.id: one.today.score for one in rows if one.today}
    halves = [_half(half, rows, scores) for half in HALVES]
    missing = next((f for f in halves if isinstance(f, Unavailable)), None)
    return missing or _mean(rows, scores)


def drift_figures(rows: Sequence[JudgedItem]) -> dict[str, Figure]:
    """Today's judge against the recorded one, on the same answers.

    `judge_drift` is today's score less the recorded one, in points; `judge_correlation` is
    Pearson's of the scores of free-form answers, `judge_kappa` Cohen's of the letters.

    Args:
        rows: of one model.
    """
    both = [one for one in rows if one.recorded and one.today]
    if not both:
        reason = Unavailable("no answer of this model was judged before")
        return dict.fromkeys(("judge_drift", *_DRIFTS, "judge_correlation", "judge_kappa"), reason)
    free = [one for one in both if one.row.item.problem_type == FREE_FORM]
    choice = [one for one in both if one.row.item.problem_type != FREE_FORM]
    return {
        "judge_drift": _drift(both),
        **{name: _drift(half) for name, half in zip(_DRIFTS, (free, choice), strict=True)},
        "judge_correlation": _correlation(free),
        "judge_kappa": _kappa(choice),
    }


_DRIFTS = ("judge_drift_free_form", "judge_drift_multiple_choice")


def unread(rows: Sequence[JudgedItem]) -> list[JudgedItem]:
    """The rows whose judgement could not be read; they leave the means."""
    return [one for one in rows if one.counted and one.counted.score is None]


def bounds(rows: Sequence[JudgedItem]) -> tuple[float, float]:
    """The lowest and highest overall mean that the unread rows could have led to, in points."""
    known = sum(one.counted.score or 0.0 for one in rows if one.counted)
    count = sum(one.counted is not None for one in rows)
    return _POINTS * known / count, _POINTS * (known + len(unread(rows))) / count


def _key(half: str) -> str:
    return half.replace("-", "_")


def _half(half: str, rows: Sequence[JudgedItem], scores: Mapping[str, float | None]) -> Figure:
    own = [one for one in rows if one.row.item.problem_type == half]
    if not own:
        return Unavailable(f"there are no {half} rows")
    if not any(one.row.id in scores for one in own):
        if all(one.row.answer is None for one in own):
            return Unavailable(f"the model has no answer to any of {len(own)} {half} questions")
        return Unavailable(f"{half} answers need a judge")
    return _mean(own, scores)


def _mean(rows: Sequence[JudgedItem], scores: Mapping[str, float | None]) -> Figure:
    known = {id: s for one in rows if (s := scores.get(id := one.row.id)) is not None}
    if not known:
        return Unavailable(f"none of the judge's {len(rows)} replies could be read")
    clusters = {one.row.id: one.row.item.digest for one in rows}
    return RowFigure(known, clusters, unit=True, factor=_POINTS)


def _mean_over_items(rows: Sequence[JudgedItem], scores: Mapping[str, float | None]) -> Figure:
    of_item: dict[str, list[float]] = {}
    for one in rows:
        if (score := scores.get(one.row.id)) is not None:
            of_item.setdefault(one.row.item.digest, []).append(score)
    means = {digest: float(np.mean(found)) for digest, found in of_item.items()}
    return RowFigure(means, unit=True, factor=_POINTS)


def _of_benchmarks(
    rows: Sequence[JudgedItem],
    scores: Mapping[str, float | None],
    halves: Mapping[str, Figure],
) -> dict[str, Figure]:
    parts: dict[tuple[str, str], list[JudgedItem]] = {}
    for one in rows:
        item = one.row.item
        parts.setdefault((item.problem_type, item.benchmark_name), []).append(one)
    return {
        f"{_key(half)}/{name}": found
        if isinstance(found := halves[half], Unavailable)
        else _mean(parts[half, name], scores)
        for half, name in sorted(parts, key=lambda part: (part[0], -len(parts[part]), part[1]))
    }


def _by_rule(rows: Sequence[JudgedItem]) -> Figure:
    read = [one for one in rows if one.rule]
    if not read:
        return Unavailable("there are no multiple-choice answers")
    return _mean(read, {one.row.id: one.rule.score for one in read if one.rule})


def _drift(rows: Sequence[JudgedItem]) -> Figure:
    changes = {
        one.row.id: one.today.score - one.recorded.score
        for one in rows
        if one.today and one.recorded
        if one.today.score is not None and one.recorded.score is not None
    }
    if not changes:
        return Unavailable("no answer has two judgements that can be read")
    return RowFigure(changes, {one.row.id: one.row.item.digest for one in rows}, factor=_POINTS)


def _correlation(rows: Sequence[JudgedItem]) -> Figure:
    pairs = {
        one.row.id: (one.recorded.score, one.today.score)
        for one in rows
        if one.today and one.recorded
        if one.today.score is not None and one.recorded.score is not None
    }
    if any(len({pair[k] for pair in pairs.values()}) < 2 for k in (0, 1)):
        return Unavailable("one of the judges gave all free-form answers the same score")
    scores = {id: np.asarray(pair, dtype=float) for id, pair in pairs.items()}

    def correlation(ids: Sequence[str]) -> float:
        drawn = np.stack([scores[id] for id in ids], axis=1)
        if (np.ptp(drawn, axis=1) == 0).any():
            return float("nan")
        return float(np.corrcoef(drawn)[0, 1])

    return StatisticFigure(list(scores), correlation, _clusters(rows))


def _kappa(rows: Sequence[JudgedItem]) -> Figure:
    letters = {
        one.row.id: (one.recorded.letter, one.today.letter)
        for one in rows
        if one.today and one.recorded and one.today.letter and one.recorded.letter
    }
    columns = [[pair[k] for pair in letters.values()] for k in (0, 1)]
    if reason := why_undefined(columns):
        return Unavailable(reason)

    def kappa(ids: Sequence[str]) -> float:
        return cohens_kappa([letters[id][0] for id in ids], [letters[id][1] for id in ids])

    return StatisticFigure(list(letters), kappa, _clusters(rows))


def _clusters(rows: Sequence[JudgedItem]) -> dict[str, str]:
    return {one.row.id: one.row.item.digest for one in rows}
