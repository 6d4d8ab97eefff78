"""Decides between the two anchors from judged comparisons: zero, down, undecided or refused.

The chosen answers are better than the model's own where the whole 95 % interval of what they win
lies above one half: apo_zero raises them. They are worse where it lies below: apo_down lowers both.
No more is concluded than that, and nothing from a judge whose two orders agree no more often than
a coin's would.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from clair_apo.advice.rows import JudgedSample
from clair_apo.advice.saturation import Saturation
from clair_apo.records import Record
from clair_apo.stats import Interval, bounded_interval, proportion_interval, sample_size

Word = Literal["zero", "down", "undecided", "refused"]

LOSS_TYPE = {"zero": "apo_zero", "down": "apo_down"}
"""The objective that an advice stands for."""
ENOUGH_TO_SHOW = 50
"""Prompts from which a judge of use shows that its orders agree more often than a coin's: one
that agrees in 66 % has the whole interval above 50 %."""
ENOUGH_CONTROLS = 8
"""Controls from which a judge of use shows that it prefers real answers."""
LIKE_LENGTH = 0.1
"""Two answers are of like length where they differ by at most this share of the longer one."""

Share = Callable[[JudgedSample], float | None]


class Advice(Record):
    """Which anchor fits, and on what evidence; the content of `advise.json`."""

    advice: Word
    reason: str
    """In words, with the figures that decided."""
    chosen_share: Interval
    """What the chosen answers win against the model's own, clustered by prompt."""
    comparisons_needed: int | None
    """How many comparisons it takes for an interval that leaves out one half, if share and spread
    stay as they are; None where the share is one half exactly."""
    comparisons_missing: int | None
    """How many more than there are; 0 where they suffice."""
    consistent: Interval
    """The share of comparisons in which both orders say the same."""
    first_place: Interval | None = None
    """The share of verdicts for what was shown first: one half for a judge without preference."""
    longer_share: Interval | None = None
    """What the longer of two answers wins."""
    like_length_share: Interval | None = None
    """`chosen_share` among answers of like length."""
    rejected_share: Interval | None = None
    """What the rejected answers win against the model's own; None where they are its own."""
    controls: Interval | None = None
    """The share of controls in which the judge prefers an answer to a text that answers nothing and
    praises itself; None where no judge was at hand."""
    unreadable: int = 0
    """Comparisons without a verdict in one of the orders; they are in no share."""
    left_out: int = 0
    """Pairs without a sample, because it ran into the limit or is empty; they are in no share."""
    saturation: Saturation
    source: dict[str, str] = Field(default_factory=dict)
    """What was compared, by what."""


class Evidence(Record):
    """What an advice is made of beside the rows."""

    saturation: Saturation
    rejected: tuple[JudgedSample, ...] = ()
    """The same with the rejected answers in place of the chosen ones."""
    controls: tuple[bool, ...] = ()
    """Whether the judge passed each control."""
    unreadable: int = 0
    left_out: int = 0
    source: dict[str, str] = Field(default_factory=dict)


def decide(rows: Sequence[JudgedSample], evidence: Evidence) -> Advice:
    """Decide which anchor fits.

    Args:
        rows: at least one comparison.
        evidence: what else is known.
    """
    share = _share(rows, lambda row: row.chosen_share)
    consistent = _consistent(rows)
    controls = proportion_interval(evidence.controls) if evidence.controls else None
    assert share is not None
    needed = _needed(share)
    fault = judge_fault(share, consistent, controls, evidence.unreadable) or _constant(rows, share)
    word, reason = _refused(fault) if fault else _word(share, needed)
    return Advice(
        advice=word,
        reason=reason,
        chosen_share=share,
        comparisons_needed=needed,
        comparisons_missing=None if needed is None else _missing(word, needed, share.n),
        consistent=consistent,
        first_place=_share(rows, lambda row: row.first_place),
        longer_share=_share(rows, _longer),
        like_length_share=_share(rows, _alike),
        rejected_share=_share(evidence.rejected, lambda row: row.chosen_share),
        controls=controls,
        unreadable=evidence.unreadable,
        left_out=evidence.left_out,
        saturation=evidence.saturation,
        source=evidence.source,
    )


def _refused(fault: str) -> tuple[Word, str]:
    return "refused", fault


def _word(share: Interval, needed: int | None) -> tuple[Word, str]:
    assert share.low is not None and share.high is not None
    found = f"the chosen answers win {in_percent(share)} against the model's own"
    if share.low > 0.5:
        return "zero", f"{found}: they are better, so raise them (apo_zero)"
    if share.high < 0.5:
        return "down", f"{found}: they are worse, so lower both sides (apo_down)"
    if needed is None:
        return "undecided", f"{found}: exactly one half, which no number of comparisons decides"
    missing = _missing("undecided", needed, share.n)
    return "undecided", (
        f"{found}, and the interval holds 50 %: at this share it takes about {needed:,} "
        f"comparisons to decide, {missing:,} more than there are"
    )


def judge_fault(
    share: Interval, consistent: Interval, controls: Interval | None, unreadable: int
) -> str:
    """Why a judge's word is no evidence; empty where it is.

    Args:
        share: what one side won.
        consistent: the share of comparisons in which both orders say the same.
        controls: the share of controls that it passed; None without any.
        unreadable: comparisons without a verdict in one of the orders.
    """
    coin = _shows(consistent, ENOUGH_TO_SHOW) and _holds_half(consistent) and _holds_half(share)
    if consistent.mean <= 0.5 or coin:
        return (
            f"the judge says the same in both orders in {in_percent(consistent)} of the "
            "comparisons, which a coin would too (50 %); take another judge"
        )
    if controls and _fooled(controls):
        return (
            "the judge is fooled: it prefers a real answer to a text that answers nothing and "
            f"praises itself in {in_percent(controls)} of the controls; take another judge"
        )
    if unreadable > share.n:
        return (
            f"the judge gave no verdict in {unreadable} of {share.n + unreadable} comparisons; "
            "take another judge"
        )
    return ""


def _fooled(controls: Interval) -> bool:
    """Whether a judge passes controls no more often than a coin would."""
    return controls.mean <= 0.5 or (_shows(controls, ENOUGH_CONTROLS) and _holds_half(controls))


def _constant(rows: Sequence[JudgedSample], share: Interval) -> str:
    """Why a judge is fooled that prefers the side which says the same to most prompts."""
    if _holds_half(share):
        return ""
    chosen_wins = share.mean > 0.5
    said = most_common_text(
        {row.prompt_id: row.chosen if chosen_wins else row.sample for row in rows}
    )
    if not said:
        return ""
    side = "the chosen answers" if chosen_wins else "the model's samples"
    return (
        f"the judge is fooled: it prefers {side}, which are the same text for {said} of "
        f"{share.clusters} prompts; look at them, and take another judge"
    )


def most_common_text(answers: Mapping[str, str | None]) -> int:
    """How many prompts got the text that more than half of them got; 0 where there is none.

    Args:
        answers: by prompt; None where the text is not known. Of fewer than four prompts nothing is
            concluded.
    """
    texts = Counter(text for text in answers.values() if text is not None)
    most = max(texts.values(), default=0)
    return most if len(answers) >= 4 and most > len(answers) / 2 else 0


def _shows(share: Interval, enough: int) -> bool:
    return share.clusters is not None and share.clusters >= enough


def _holds_half(share: Interval) -> bool:
    assert share.low is not None and share.high is not None
    return share.low <= 0.5 <= share.high


def _share(rows: Sequence[JudgedSample], value: Share) -> Interval | None:
    """The mean of a value over the rows that have it, clustered by prompt."""
    found = [(number, row.prompt_id) for row in rows if (number := value(row)) is not None]
    if not found:
        return None
    return bounded_interval([n for n, _ in found], clusters=[prompt for _, prompt in found])


def _consistent(rows: Sequence[JudgedSample]) -> Interval:
    return proportion_interval(
        [row.consistent for row in rows], clusters=[row.prompt_id for row in rows]
    )


def _longer(row: JudgedSample) -> float | None:
    if row.lengths is None or row.lengths[0] == row.lengths[1]:
        return None
    return row.chosen_share if row.lengths[0] > row.lengths[1] else 1 - row.chosen_share


def _alike(row: JudgedSample) -> float | None:
    if row.lengths is None:
        return None
    chosen, sample = row.lengths
    alike = abs(chosen - sample) <= LIKE_LENGTH * max(chosen, sample)
    return row.chosen_share if alike else None


def _needed(share: Interval) -> int | None:
    """How many comparisons it takes for an interval of this share that leaves out one half."""
    distance = share.mean - 0.5
    if abs(distance) < 1e-12:
        return None
    naive, error = share.standard_error_naive, share.standard_error
    if not naive or not error:  # no spread to be seen: that of a judge without ties, at most
        return sample_size(distance, math.sqrt(share.mean * (1 - share.mean)) or 0.5, power=0.5)
    deviation = naive * math.sqrt(share.n)
    return sample_size(distance, deviation, power=0.5, design_effect=(error / naive) ** 2)


def _missing(word: Word, needed: int, n: int) -> int:
    """How many comparisons there should be more; at least one where they did not decide."""
    return max(needed - n, 1 if word == "undecided" else 0)


def in_percent(share: Interval) -> str:
    """A share with its interval, in percent."""
    count = f"n={share.n:,}"
    if share.clusters not in (None, share.n):
        count += f", {share.clusters:,} prompts"
    assert share.low is not None and share.high is not None
    bounds = f"[{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return f"{100 * share.mean:.1f} % {bounds} ({count})"
