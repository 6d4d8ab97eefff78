"""Two answers are compared in both orders, and what the two verdicts say together."""

import pytest

from clair_apo.advice.comparisons import Comparison, agreement, compare
from tests.helpers.clair_runs import user
from tests.helpers.judging import always, judge_of, longest, prefers


def compared(tmp_path, rule, answer, other):
    judge = judge_of(tmp_path / "requests.sqlite", rule)
    (found,) = judge.chat.converse([compare(judge, user("Why?"), answer, other)])
    return found


@pytest.mark.parametrize(
    ("first", "second", "share", "consistent", "first_place"),
    [
        ("first", "second", 1.0, True, 0.5),
        ("second", "first", 0.0, True, 0.5),
        ("tie", "tie", 0.5, True, None),
        ("first", "first", 0.5, False, 1.0),
        ("second", "second", 0.5, False, 0.0),
        ("first", "tie", 0.75, False, 1.0),
        ("tie", "first", 0.25, False, 1.0),
        (None, "first", None, False, 1.0),
        ("first", None, None, False, 1.0),
    ],
)
def test_the_share_is_the_mean_over_both_orders(first, second, share, consistent, first_place):
    found = Comparison(shown_first=first, shown_second=second)
    assert (found.share, found.consistent, found.first_place) == (share, consistent, first_place)


def test_an_answer_is_shown_first_and_then_second(tmp_path):
    rule = prefers("good")
    found = compared(tmp_path, rule, "a good one", "a bad one")
    assert (found.shown_first, found.shown_second) == ("first", "second")
    assert len(rule.requests) == len(found.request_keys) == 2
    assert compared(tmp_path, prefers("good"), "a bad one", "a good one").share == 0.0


def test_equal_answers_are_a_tie_about_which_nobody_is_asked(tmp_path):
    rule = always("1")
    found = compared(tmp_path, rule, "the same", "the same")
    assert (found.share, found.consistent, found.asked) == (0.5, True, False)
    assert rule.requests == []


def test_what_a_judge_prefers_for_its_place_cancels_out_and_is_told(tmp_path):
    found = compared(tmp_path, always("1"), "one", "other")
    assert (found.share, found.consistent, found.first_place) == (0.5, False, 1.0)


def test_a_reply_in_prose_has_no_share(tmp_path):
    assert compared(tmp_path, always("the first, I think"), "one", "other").share is None


def test_the_longer_answer_wins_in_both_orders_where_length_decides(tmp_path):
    assert compared(tmp_path, longest(), "a long answer", "short").share == 1.0


@pytest.mark.parametrize(
    ("verdict", "swapped", "expected"),
    [
        ("first", "second", "consistent"),
        ("tie", "tie", "ties"),
        ("first", "first", "inconsistent"),
        ("first", "tie", "inconsistent"),
        ("first", None, "unreadable"),
    ],
)
def test_agreement_of_two_verdicts_has_four_names(verdict, swapped, expected):
    assert agreement(verdict, swapped) == expected
