"""Compares two answers to a prompt by a judge that is asked in both orders.

The judge of `llm.judge` may favour the answer that it is shown first. Over both orders that cancels
out, and how often they agree says how much its word counts for.
"""

from collections.abc import Sequence
from typing import Literal

from clair_apo.llm import Answer, ChatRequest, Dialogue
from clair_apo.llm.judge import Judge, Verdict, read_comparison
from clair_apo.records import Conversation, Record

Agreement = Literal["consistent", "ties", "inconsistent", "unreadable"]

_WON: dict[Verdict, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


class Comparison(Record):
    """An answer compared with another one, in both orders."""

    shown_first: Verdict | None
    """The verdict where the answer was shown first; None where the reply held none."""
    shown_second: Verdict | None
    """The verdict where the answer was shown second."""
    asked: bool = True
    """False for two equal answers: a tie, about which nobody is asked."""
    request_keys: tuple[str, ...] = ()

    @property
    def share(self) -> float | None:
        """What the answer won, as the mean over both orders of 1, 0.5 (a tie) and 0.

        None where one of the replies held no verdict: a single order is not free of the judge's
        preference for a place.
        """
        if self.shown_first is None or self.shown_second is None:
            return None
        return (_WON[self.shown_first] + 1 - _WON[self.shown_second]) / 2

    @property
    def consistent(self) -> bool:
        """Whether both orders say the same: the same answer is better, or it is a tie."""
        return agreement(self.shown_first, self.shown_second) in ("consistent", "ties")

    @property
    def first_place(self) -> float | None:
        """The share of verdicts for what was shown first, of those for one side; None without."""
        verdicts = (self.shown_first, self.shown_second)
        sides = [one for one in verdicts if one in ("first", "second")]
        return sides.count("first") / len(sides) if sides else None


def agreement(verdict: Verdict | None, swapped: Verdict | None) -> Agreement:
    """How the verdicts on two answers agree with each other.

    Args:
        verdict: in one order.
        swapped: in the other order.

    Returns:
        `consistent`: both prefer the same answer; `ties`: both call it a tie; `unreadable`: one of
        the replies held no verdict; `inconsistent`: all else.
    """
    verdicts = {verdict, swapped}
    if None in verdicts:
        return "unreadable"
    if verdicts == {"tie"}:
        return "ties"
    return "consistent" if verdicts == {"first", "second"} else "inconsistent"


def both_orders(
    judge: Judge, conversation: Conversation, answer: str, other: str
) -> tuple[ChatRequest, ...]:
    """The questions that compare two answers, `answer` shown first and then second.

    Two equal answers need no question: there is none then.
    """
    if answer == other:
        return ()
    return (
        judge.compare(conversation, answer, other),
        judge.compare(conversation, other, answer),
    )


def read_both_orders(answers: Sequence[Answer]) -> Comparison:
    """The comparison in the answers to `both_orders`; a tie where there was no question."""
    if not answers:
        return Comparison(shown_first="tie", shown_second="tie", asked=False)
    first, second = (read_comparison(answer) for answer in answers)
    keys = tuple(answer.request.key for answer in answers)
    return Comparison(shown_first=first, shown_second=second, request_keys=keys)


def compare(
    judge: Judge, conversation: Conversation, answer: str, other: str
) -> Dialogue[Comparison]:
    """Have an answer compared with another one in both orders.

    Args:
        judge: is asked.
        conversation: what both reply to.
        answer: the text whose share is asked for.
        other: the text that it is compared with.
    """
    questions = both_orders(judge, conversation, answer, other)
    answers = (yield questions) if questions else ()
    return read_both_orders(answers)
