"""What a reviser's reply is read as, in the spellings that models use."""

import pytest
from clair_runs import edit_reply, full_reply
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.clair import Edit, ParseError, load_template, parse_edits, parse_revision, read_reply
from clair_apo.records import DropReason, Message

WHY = "The unit is wrong.\nIt should be metres."
TEXT = "The bridge is 30 metres long.\n\n- It is **old**."

SPELLINGS = {
    "our tags": f"<reasoning>\n{WHY}\n</reasoning>\n<revision>\n{TEXT}\n</revision>",
    "our tags in capitals": f"<Reasoning>{WHY}</REASONING><Revision>{TEXT}</Revision>",
    "in a fence, ours": f"```\n<reasoning>{WHY}</reasoning>\n<revision>{TEXT}</revision>\n```",
    "published": f"{{teacher_reasoning}}\n{WHY}\n\n{{corrected_student_solution}}\n{TEXT}",
    "with colons": f"{{teacher_reasoning}}: {WHY}\n{{corrected_student_solution}}: {TEXT}",
    "bold": f"**{{teacher_reasoning}}**\n{WHY}\n**{{corrected_student_solution}}**\n{TEXT}",
    "bold, colon": f"**{{teacher_reasoning}}**: {WHY}\n**{{corrected_student_solution}}**: {TEXT}",
    "inner colon": f"**{{teacher_reasoning}}:** {WHY}\n**{{corrected_student_solution}}:**\n{TEXT}",
    "escaped": f"{{teacher\\_reasoning}}: {WHY}\n{{corrected\\_student\\_solution}}: {TEXT}",
    "blanks": f"{{Teacher Reasoning}}: {WHY}\n{{Corrected Student Solution}}: {TEXT}",
    "blanks in braces": f"{{ teacher_reasoning }}\n{WHY}\n{{ corrected_student_solution }}\n{TEXT}",
    "two braces": f"{{{{teacher_reasoning}}}}\n{WHY}\n{{{{corrected_student_solution}}}}\n{TEXT}",
    "no braces": f"teacher_reasoning: {WHY}\ncorrected_student_solution: {TEXT}",
    "no braces, own lines": f"Teacher Reasoning\n{WHY}\nCorrected Student Solution\n{TEXT}",
    "no braces, bold": f"**Teacher reasoning:** {WHY}\n\n**Corrected student solution:**\n{TEXT}",
    "headings": f"### {{teacher_reasoning}}\n{WHY}\n### {{corrected_student_solution}}\n\n{TEXT}",
    "in code marks": f"`{{teacher_reasoning}}`: {WHY}\n`{{corrected_student_solution}}`: {TEXT}",
    "capitals": f"{{TEACHER_REASONING}}\n{WHY}\n{{CORRECTED_STUDENT_SOLUTION}}\n{TEXT}",
    "in a fence": f"```\n{{teacher_reasoning}}\n{WHY}\n{{corrected_student_solution}}\n{TEXT}\n```",
    "quoted indent": f"  {{teacher_reasoning}}: {WHY}\n  {{corrected_student_solution}}: {TEXT}",
    "Windows": f"{{teacher_reasoning}}\r\n{WHY}\r\n{{corrected_student_solution}}\r\n{TEXT}\r\n",
    "after thinking": (
        f"<think>First <revision>a draft</revision>.</think>\n{full_reply(TEXT, WHY)}"
    ),
    "after an echo": (
        "<reasoning>\nwhat has to change, and why\n</reasoning>\n<revision>\nthe whole revised "
        f"answer\n</revision>\n\n{full_reply(TEXT, WHY)}"
    ),
    "after an echo of the published form": (
        "{teacher_reasoning}: your reasoning\n{corrected_student_solution}: your solution\n\n"
        f"{{teacher_reasoning}}: {WHY}\n{{corrected_student_solution}}: {TEXT}"
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_revision_is_found_in_every_spelling(spelling):
    parsed = parse_revision(SPELLINGS[spelling])
    assert parsed.text == TEXT
    assert parsed.rationale == WHY


BEGINNINGS = ["**Bold** words.", "`code` first", "*slanted*", "_so_", ": a colon", "{x}", "# Head"]


@pytest.mark.parametrize("text", BEGINNINGS)
@pytest.mark.parametrize(
    "head",
    ["{corrected_student_solution}:", "**{corrected_student_solution}**:", "<revision>"],
)
@pytest.mark.parametrize("gap", [" ", "\n"])
def test_marks_at_the_beginning_of_the_revised_answer_belong_to_it(head, gap, text):
    tail = "</revision>" if head == "<revision>" else ""
    assert parse_revision(f"{head}{gap}{text} And on.{tail}").text == f"{text} And on."


def test_identifiers_within_a_sentence_are_no_headings():
    text = "The corrected student solution is below. See {corrected_student_solution} there."
    with pytest.raises(ParseError) as caught:
        parse_revision(text)
    assert caught.value.reason is DropReason.UNPARSED


def test_a_revision_without_reasoning_has_an_empty_rationale():
    assert parse_revision("<revision>text</revision>").rationale == ""
    assert parse_revision("{corrected_student_solution}\ntext").rationale == ""


def test_reasoning_without_an_identifier_is_the_text_before():
    assert parse_revision("It was long.\n{corrected_student_solution}\nshort").rationale == (
        "It was long."
    )


UNPARSED = {
    "nothing": "",
    "chat": "Here is a better answer: use metres.",
    "never closed": "<reasoning>x</reasoning>\n<revision>\nThe bridge is",
    "never opened": "The bridge is 30 m.</revision>",
    "reasoning only": "{teacher_reasoning}: the unit is wrong",
    "thinking that never ends": "<think> maybe <revision>a draft</revision> or",
}


@pytest.mark.parametrize("reply", UNPARSED)
def test_a_reply_without_a_revision_is_unparsed(reply):
    with pytest.raises(ParseError) as caught:
        parse_revision(UNPARSED[reply])
    assert caught.value.reason is DropReason.UNPARSED
    assert str(caught.value)


@pytest.mark.parametrize(
    "reply", ["<revision> \n </revision>", "x\n{corrected_student_solution}:\n\n", full_reply("")]
)
def test_a_revision_without_text_is_empty(reply):
    with pytest.raises(ParseError) as caught:
        parse_revision(reply)
    assert caught.value.reason is DropReason.EMPTY


def test_the_echoed_placeholder_is_no_revision():
    asked = load_template("full").render((Message(role="user", content="q"),), "a")[0].content
    with pytest.raises(ParseError) as caught:
        parse_revision(asked)
    assert caught.value.reason is DropReason.UNPARSED


words = st.text(st.characters(exclude_characters="<>{}`\r", codec="utf-8"), max_size=40)


@given(text=words, why=words)
def test_whatever_stands_between_the_tags_is_the_revision(text, why):
    reply = full_reply(text, why)
    if text.strip():
        parsed = parse_revision(reply)
        assert (parsed.text, parsed.rationale) == (text.strip(), why.strip())
    else:
        with pytest.raises(ParseError):
            parse_revision(reply)


@given(st.text())
def test_no_reply_breaks_the_parsers(reply):
    for parse in (parse_revision, parse_edits):
        try:
            parse(reply)
        except ParseError as error:
            assert error.reason in (DropReason.UNPARSED, DropReason.EMPTY)


def test_edits_are_read_in_their_order_with_the_reasoning():
    reply = edit_reply(("a", "b"), ("c d", ""), reasoning="two things")
    parsed = parse_edits(reply)
    assert parsed.edits == (Edit("a", "b"), Edit("c d", ""))
    assert parsed.rationale == "two things"


def test_no_edits_are_a_list_of_none():
    assert parse_edits("<edits>\n</edits>").edits == ()


def test_passages_of_several_lines_keep_their_indentation_and_lose_only_their_frame():
    reply = (
        "<edits><edit><find>\n    if x:\n        y()\n</find>"
        "<replace>\n    if z:\n\n        y()  \n</replace></edit></edits>"
    )
    (edit,) = parse_edits(reply).edits
    assert edit == Edit("    if x:\n        y()", "    if z:\n\n        y()  ")


def test_one_blank_line_in_a_passage_is_not_its_frame():
    reply = "<edits><edit><find>a</find><replace>\na\n\n</replace></edit></edits>"
    assert parse_edits(reply).edits == (Edit("a", "a\n"),)


EDIT_SPELLINGS = {
    "in a fence": f"```xml\n{edit_reply(('old', 'new'))}\n```",
    "in capitals": edit_reply(("old", "new")).replace("edit", "EDIT").replace("find", "Find"),
    "on one line": "<edits><edit><find>old</find> <replace>new</replace></edit></edits>",
    "after thinking": f"<think>\n{edit_reply(('x', 'y'))}\n</think>{edit_reply(('old', 'new'))}",
    "after an echo": f"{edit_reply(('a passage', 'instead'))}\n{edit_reply(('old', 'new'))}",
    "Windows": edit_reply(("old", "new")).replace("\n", "\r\n"),
    "framed on Windows": (
        "<edits><edit><find>\r\nold\r\n</find><replace>\r\nnew\r\n</replace></edit></edits>"
    ),
}


@pytest.mark.parametrize("spelling", EDIT_SPELLINGS)
def test_edits_are_found_in_every_spelling(spelling):
    assert parse_edits(EDIT_SPELLINGS[spelling]).edits == (Edit("old", "new"),)


def test_a_deletion_may_be_an_empty_or_a_self_closing_replacement():
    for replace in ("<replace></replace>", "<replace/>", "<replace />", "<replace>\n</replace>"):
        reply = f"<edits><edit><find>old</find>{replace}</edit></edits>"
        assert parse_edits(reply).edits == (Edit("old", ""),)


@pytest.mark.parametrize(
    "reply",
    [
        "nothing to do",
        "<edits><edit><find>a</find><replace>b</replace></edit>",
        "<edits>change a to b</edits>",
        "<edits><edit><find>a</find></edit></edits>",
        "<edits><edit><find>a</find><replace>b</replace></edit> and more</edits>",
    ],
)
def test_edits_that_are_not_well_formed_are_unparsed(reply):
    with pytest.raises(ParseError) as caught:
        parse_edits(reply)
    assert caught.value.reason is DropReason.UNPARSED


def test_a_reply_in_edits_becomes_the_edited_answer():
    parsed = read_reply(edit_reply(("old", "new")), "the old answer", "edits")
    assert parsed.text == "the new answer"
    assert parsed.rationale == "because"


def test_an_edit_of_text_that_is_not_there_names_the_text():
    with pytest.raises(ParseError, match="'very old'") as caught:
        read_reply(edit_reply(("very old", "new")), "the old answer", "edits")
    assert caught.value.reason is DropReason.EDIT_NOT_FOUND
