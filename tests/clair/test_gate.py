"""Which answers and revisions make no pair."""

import pytest

from clair_apo.clair import is_refusal, judge_answer, judge_reply, judge_revision, measure_contrast
from clair_apo.clair.contrast import token_set
from clair_apo.records import DropReason

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t assist with that request.",
    "I am very sorry, I cannot provide this.",
    "Sorry, I can not do that.",
    "I can't revise this answer.",
    "I cannot comply with this request.",
    "I apologize, but I am unable to edit this text.",
    "I apologise, but I won't continue.",
    "Unfortunately, I am not able to help.",
    "I will not write that.",
    "As an AI language model, I do not have opinions.",
    "As an AI, I must decline.",
    "  **I'm sorry**, but I cannot help.",
    '"I can\'t help with that."',
    "i'm really sorry but i can't help",
]

NO_REFUSALS = [
    "Use baking soda. If that fails, I can't help you further.",
    "You can't park there.",
    "I can help with that: boil the water first.",
    "Sorry to hear that! Try restarting the router.",
    "I'm sorry for your loss. Here is a short note you could send.",
    "As an aid to memory, write it down.",
    "As an AI researcher you will read many papers.",
    "A refusal may begin with: I cannot help.\n",
    "Hi Anna, unfortunately I can't make it on Friday. Shall we say Monday?",
    "I will not be in the office until Tuesday.",
    "Here is what I can't stress enough: drink water.",
    "",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_known_by_its_opening(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_an_answer_that_only_speaks_of_not_being_able_is_no_refusal(text):
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("text", "finish", "tokens", "reason"),
    [
        ("An answer.", "stop", 99, None),
        ("An answer.", "given", 0, None),
        ("An answer.", "other", 5, None),
        (" \n\t", "stop", 1, DropReason.EMPTY),
        ("", "length", 100, DropReason.EMPTY),
        ("It goes", "length", 50, DropReason.CUT),
        ("It goes", "stop", 100, DropReason.CUT),
        ("It goes", "content_filter", 5, DropReason.CUT),
    ],
)
def test_an_answer_is_judged_by_text_finish_and_length(text, finish, tokens, reason):
    assert judge_answer(text, finish, tokens, 100) is reason


@pytest.mark.parametrize(
    ("text", "finish", "tokens", "reason"),
    [
        ("<edits>", "stop", 99, None),
        ("<edits>", "other", 5, None),
        ("<edits>", "length", 5, DropReason.CUT),
        ("<edits>", "stop", 100, DropReason.CUT),
        ("", "length", 100, DropReason.CUT),
        (" ", "stop", 1, DropReason.EMPTY),
        ("", "content_filter", 0, DropReason.REFUSED),
        ("half", "content_filter", 100, DropReason.REFUSED),
    ],
)
def test_a_reply_is_judged_before_it_is_parsed(text, finish, tokens, reason):
    assert judge_reply(text, finish, tokens, 100) is reason


@pytest.mark.parametrize(
    ("answer", "revision", "reason"),
    [
        ("old", "new", None),
        ("old", "", DropReason.EMPTY),
        ("old", " \n", DropReason.EMPTY),
        ("old", "old", DropReason.NO_OP),
        ("old", "\nold ", DropReason.NO_OP),
        ("old", "Old", None),
        ("old", REFUSALS[0], DropReason.REFUSED),
        (REFUSALS[0], REFUSALS[0] + " Try a doctor.", None),  # a refusal may be revised
        (REFUSALS[0], "Of course: here it is.", None),
    ],
)
def test_a_revision_is_judged_against_its_answer(answer, revision, reason):
    assert judge_revision(answer, revision) is reason


def test_contrast_is_shared_tokens_over_all_tokens_and_characters_to_change():
    contrast = measure_contrast(chosen="The new dog, then.", rejected="The old dog, then.")
    # the, dog, comma, then, stop are shared; old and new are not
    assert token_set("The new dog, then.") == {"the", "new", "dog", ",", "then", "."}
    assert contrast.jaccard == 5 / 7
    assert contrast.levenshtein == 3
    assert (contrast.chosen_characters, contrast.rejected_characters) == (18, 18)


def test_contrast_of_equal_empty_and_foreign_texts():
    assert measure_contrast(chosen="", rejected="").jaccard == 1.0
    assert measure_contrast(chosen="a", rejected="").jaccard == 0.0
    assert measure_contrast(chosen="", rejected="abc").levenshtein == 3
    assert measure_contrast(chosen="Größe!", rejected="größe!").jaccard == 1.0
    assert measure_contrast(chosen="猫", rejected="犬").levenshtein == 1
