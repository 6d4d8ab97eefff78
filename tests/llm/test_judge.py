"""What a judge's reply is read as."""

import pytest

from clair_apo.llm import Answer
from clair_apo.llm.judge import read_comparison, read_confirmation
from tests.helpers.llm_requests import ask_for, completion


def reply(text: str, finish_reason: str = "stop") -> Answer:
    return Answer(ask_for("Which?"), completion(text, finish_reason))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<verdict>1</verdict>", "first"),
        ("So: <VERDICT> **Answer 2** </VERDICT>.", "second"),
        ("<verdict>tie</verdict>", "tie"),
        ("<verdict>1</verdict> No, wait. <verdict>2</verdict>", "second"),
        ("<think><verdict>1</verdict></think> <verdict>2</verdict>", "second"),
        ("[THINK]<verdict>1</verdict>[/THINK] I cannot say.", None),
        ("<thinking>Perhaps <verdict>1</verdict>, but", None),
        ("The first.", None),
        ("", None),
    ],
)
def test_comparison_is_the_last_verdict_behind_the_thinking(text, verdict):
    assert read_comparison(reply(text)) == verdict


@pytest.mark.parametrize(
    ("text", "holds"),
    [("<verdict>yes</verdict>", True), ("<verdict>No</verdict>", False), ("Yes.", None)],
)
def test_confirmation_is_yes_or_no(text, holds):
    assert read_confirmation(reply(text)) is holds


def test_a_cut_reply_or_none_at_all_has_no_verdict():
    assert read_comparison(reply("<verdict>1</verdict>", "length")) is None
    assert read_comparison(Answer(ask_for("Which?"), None, "refused")) is None
