"""What a text says about itself."""

import pytest

from clair_apo.text.detectors import is_refusal, mention_of_revision
from tests.helpers.clair_texts import NO_REFUSALS, REFUSALS


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_known_by_its_opening(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_an_answer_that_only_speaks_of_not_being_able_is_no_refusal(text):
    assert not is_refusal(text)


MENTIONS = {
    "The student's solution is right, but long. Use metres.": "student's solution",
    "The student\u2019s original answer was wrong.": "student's original answer",
    "Use metres. Compared with the original answer, the unit changed.": "original answer",
    "The previous response left the unit out; it is metres.": "previous response",
    "I have corrected the answer: use metres.": "I have corrected the answer",
    "Use metres. I've rewritten your response.": "I've rewritten your response",
    "In this revision, metres are used.": "In this revision",
    "Use metres. (The answer has been revised.)": "The answer has been revised",
    "The revised answer is: use metres.": "revised answer",
    "An improved version of the response: use metres.": "improved version of the response",
    "{corrected_student_solution}\nUse metres.": "corrected_student",
    "Use metres.\n</revision>": "</revision>",
    "**Revised:** Use metres.": "**Revised:",
    "Here is the corrected version:\nUse metres.": "Here is the corrected version",
    "Sure! Here's a revised draft. Use metres.": "Sure! Here's a revised draft",
    "Below is the improved text.": "Below is the improved text",
}


@pytest.mark.parametrize("text", MENTIONS)
def test_words_in_which_a_text_speaks_of_being_a_revision_are_found(text):
    assert mention_of_revision(text) == MENTIONS[text]


NO_MENTIONS = [
    "Students will be able to use fractions. Their solutions are graded.",
    "The law was revised in 1994, and corrected in 1996.",
    "Improved land use raises yields; an updated version of Python helps, too.",
    "The original text is in Latin, the earlier edition in Greek.",
    "A corrected sample variance divides by n - 1.",
    "Her initial reaction was joy.",
    "Find <b>x</b> and replace it.",
    "This paper revises and extends earlier work.",
    "Here is the recipe. It was improved by my aunt.",
    "",
]


@pytest.mark.parametrize("text", NO_MENTIONS)
def test_an_answer_about_anything_else_does_not_speak_of_being_a_revision(text):
    assert mention_of_revision(text) is None


@pytest.mark.parametrize(
    "prompt", ["Fix my code.", "Please proofread this:", "Can you rewrite it?"]
)
def test_an_opening_is_in_place_where_the_user_asked_for_such_a_thing(prompt):
    text = "Here is the corrected version: use metres."
    assert mention_of_revision(text, "How long is it?")
    assert mention_of_revision(text, prompt) is None
    assert mention_of_revision("The student's answer is wrong.", prompt)
