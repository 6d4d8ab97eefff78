"""What a reviser's reply is read as, in the spellings that models use."""

import json
from itertools import product

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from clair_apo.clair import (
    Edit,
    ParseError,
    SegmentChange,
    load_template,
    parse_edits,
    parse_revision,
    parse_segments,
    read_reply,
)
from clair_apo.records import DropReason, Message
from tests.helpers.clair_runs import edit_reply, full_reply, segment_reply
from tests.helpers.reply_spellings import (
    ANSWER,
    BROKEN_OFF,
    EDIT,
    EDITS,
    FULL,
    NEW,
    NO_EDITS,
    NO_SEGMENTS,
    SEGMENTS,
    SEGMENTS_IN_DOUBT,
    TEXT,
    WHOLE,
    WHY,
)

PARSERS = (parse_revision, parse_edits, parse_segments)


@pytest.mark.parametrize("spelling", FULL)
def test_a_revision_is_found_in_every_spelling(spelling):
    parsed = parse_revision(FULL[spelling], ANSWER)
    assert parsed.text == TEXT
    assert parsed.rationale == WHY


@pytest.mark.parametrize("case", WHOLE)
def test_nothing_is_taken_from_a_revised_answer_that_could_be_part_of_it(case):
    reply, text = WHOLE[case]
    # what the revised answer holds, the answer held before
    assert parse_revision(reply, f"{text} Indeed.").text == text


@pytest.mark.parametrize("case", BROKEN_OFF)
def test_what_opens_and_is_not_closed_is_no_revision(case):
    for parse in PARSERS:
        with pytest.raises(ParseError) as caught:
            parse(BROKEN_OFF[case], ANSWER)
        assert caught.value.reason is DropReason.UNPARSED
        assert str(caught.value)


BEGINNINGS = ["**Bold** words.", "`code` first", "*slanted*", "_so_", ": a colon", "{x}", "# Head"]


@pytest.mark.parametrize("text", BEGINNINGS)
@pytest.mark.parametrize(
    "head",
    ["{corrected_student_solution}:", "**{corrected_student_solution}**:", "<revision>"],
)
@pytest.mark.parametrize("gap", [" ", "\n"])
def test_marks_at_the_beginning_of_the_revised_answer_belong_to_it(head, gap, text):
    tail = "</revision>" if head == "<revision>" else ""
    assert parse_revision(f"{head}{gap}{text} And on.{tail}", ANSWER).text == f"{text} And on."


def test_identifiers_within_a_sentence_are_no_headings():
    text = "The corrected student solution is below. See {corrected_student_solution} there."
    with pytest.raises(ParseError) as caught:
        parse_revision(text, ANSWER)
    assert caught.value.reason is DropReason.UNPARSED


def test_a_revision_without_reasoning_has_an_empty_rationale():
    assert parse_revision("<revision>text</revision>", ANSWER).rationale == ""
    assert parse_revision("{corrected_student_solution}\ntext", ANSWER).rationale == ""


def test_reasoning_without_an_identifier_is_the_text_before():
    assert parse_revision(
        "It was long.\n{corrected_student_solution}\nshort", ANSWER
    ).rationale == ("It was long.")


UNPARSED = {
    "nothing": "",
    "chat": "Here is a better answer: use metres.",
    "never opened": "The bridge is 30 m.</revision>",
    "reasoning only": "{teacher_reasoning}: the unit is wrong",
    "thinking that never ends": "<think> maybe <revision>a draft</revision> or",
}


@pytest.mark.parametrize("reply", UNPARSED)
def test_a_reply_without_a_revision_is_unparsed(reply):
    with pytest.raises(ParseError) as caught:
        parse_revision(UNPARSED[reply], ANSWER)
    assert caught.value.reason is DropReason.UNPARSED
    assert str(caught.value)


@pytest.mark.parametrize(
    "reply", ["<revision> \n </revision>", "x\n{corrected_student_solution}:\n\n", full_reply("")]
)
def test_a_revision_without_text_is_empty(reply):
    with pytest.raises(ParseError) as caught:
        parse_revision(reply, ANSWER)
    assert caught.value.reason is DropReason.EMPTY


def test_the_echoed_placeholder_is_no_revision():
    asked = load_template("full").render((Message(role="user", content="q"),), "a")[0].content
    with pytest.raises(ParseError) as caught:
        parse_revision(asked, ANSWER)
    assert caught.value.reason is DropReason.UNPARSED


DOTS = ("...", "\u2026")


@pytest.mark.parametrize("dots", DOTS)
def test_the_form_echoed_from_a_request_to_repair_is_no_revision(dots):
    with pytest.raises(ParseError) as caught:
        parse_revision(
            f"The reply has neither <revision>{dots}</revision> nor another form.", ANSWER
        )
    assert caught.value.reason is DropReason.UNPARSED


# without outer blanks, which are the frame's or an indentation: that has tests of its own
words = st.text(st.characters(exclude_characters="<>{}`\r", codec="utf-8"), max_size=40).map(
    str.strip
)


def is_written(text):
    """Not what a request shows between the tags, which says that nothing was written."""
    return text.strip() not in DOTS


@given(text=words.filter(is_written), why=words)
def test_whatever_stands_between_the_tags_is_the_revision(text, why):
    assume(r"\n" not in text)  # in doubt, where the answer breaks lines
    reply = full_reply(text, why)
    if text.strip():
        parsed = parse_revision(reply, ANSWER)
        assert (parsed.text, parsed.rationale) == (text.strip(), why.strip())
    else:
        with pytest.raises(ParseError):
            parse_revision(reply, ANSWER)


# spellings that hold the two texts as they are: not those in JSON or with other line ends
FRAMES = [reply for reply in FULL.values() if reply.count(WHY) == reply.count(TEXT) == 1]


marked = st.text("ab \n\t*_`\"'\\()[]:-#~.|&;0=", max_size=12).map(str.strip)


@given(frame=st.sampled_from(FRAMES), text=(words | marked).filter(is_written), why=words | marked)
@example(frame=FRAMES[0], text="[ASSISTANT]", why="a role that nothing follows is no echo of one")
def test_a_spelling_changes_nothing_in_any_text_that_stands_in_it(frame, text, why):
    assume(text.strip() and why.strip())
    parsed = parse_revision(frame.replace(TEXT, text).replace(WHY, why), ANSWER)
    assert (parsed.text, parsed.rationale) == (text.strip(), why.strip())


@given(st.lists(st.tuples(words, words), max_size=4))
def test_edits_in_elements_and_in_json_say_the_same(passages):
    edits = tuple(dict.fromkeys(Edit(find, replace) for find, replace in passages))
    rows = [{"find": edit.find, "replace": edit.replace} for edit in edits]
    data = "".join(
        f"<edit><find><![CDATA[{e.find}]]></find><replace><![CDATA[{e.replace}]]></replace></edit>"
        for e in edits
    )
    assert parse_edits(f"<edits>{json.dumps(rows)}</edits>", ANSWER).edits == edits
    framed = tuple(Edit(_unframed(e.find), _unframed(e.replace)) for e in edits)
    assert parse_edits(f"<edits>{data}</edits>", ANSWER).edits == tuple(dict.fromkeys(framed))


def _unframed(passage):
    framed = passage[:1] == passage[-1:] == "\n"
    return passage[1:-1] if framed else passage


@given(st.text())
def test_no_reply_breaks_the_parsers(reply):
    for parse in PARSERS:
        try:
            parse(reply, ANSWER)
        except ParseError as error:
            assert error.reason in (DropReason.UNPARSED, DropReason.EMPTY)


ABOUT_TAGS = "Write <find> and </find>, <replace/>, <edits>, <revision> or </think>, as &lt;x&gt;."
RUNS = [*" \n\t>*_`{<#-[\\", "<find>", "```\n", "</think>", "&lt;", "teacher ", "edit "]
RUNS += ["<!--", '<edit find="a" ', "<find>a</find>", "<revision>", "</revision>\n", "&amp;"]
RUNS += ["<segment n=2>", "<segment ", "<2>", "[2] a\n", "2. a\n", "</segment>", "<segments>\n"]
RUNS += ["<segment n=2>a</segment>\n", "<segment n=2>\n", "\\<segment 1", "segment 2: "]
RUNS += ["<reasoning>\n", "<edits/>", "</find> ", "<replace>", "{revision}\n"]


@pytest.mark.timeout(30)  # quadratic time would be minutes
@pytest.mark.parametrize("piece", RUNS)
def test_a_reply_that_loops_is_read_in_time(piece):
    for beginning in ("", "<revision", "<edits>", "<segments>", "{"):
        for parse, answer in product(PARSERS, (ANSWER, ABOUT_TAGS)):
            try:
                parse(f"{beginning}{piece * (30_000 // len(piece))}x", answer)
            except ParseError as error:
                assert error.reason in (DropReason.UNPARSED, DropReason.EMPTY)


@pytest.mark.timeout(30)  # quadratic time would be minutes
def test_a_reply_that_loops_over_its_end_mark_is_read_in_time():
    reply = edit_reply(("a", "b"), reasoning="one thing")
    assert parse_edits(reply + " <|im_end|>\n" * 50_000, ANSWER) == parse_edits(reply, ANSWER)


def test_edits_are_read_in_their_order_with_the_reasoning():
    reply = edit_reply(("a", "b"), ("c d", ""), reasoning="two things")
    parsed = parse_edits(reply, ANSWER)
    assert parsed.edits == (Edit("a", "b"), Edit("c d", ""))
    assert parsed.rationale == "two things"


@pytest.mark.parametrize("spelling", NO_EDITS)
def test_no_edits_are_a_list_of_none(spelling):
    assert parse_edits(NO_EDITS[spelling], ANSWER).edits == ()


def test_passages_of_several_lines_keep_their_indentation_and_lose_only_their_frame():
    reply = (
        "<edits><edit><find>\n    if x:\n        y()\n</find>"
        "<replace>\n    if z:\n\n        y()  \n</replace></edit></edits>"
    )
    (edit,) = parse_edits(reply, ANSWER).edits
    assert edit == Edit("    if x:\n        y()", "    if z:\n\n        y()  ")


def test_one_blank_line_in_a_passage_is_not_its_frame():
    reply = "<edits><edit><find>a</find><replace>\na\n\n</replace></edit></edits>"
    assert parse_edits(reply, ANSWER).edits == (Edit("a", "a\n"),)


@pytest.mark.parametrize("spelling", EDITS)
def test_edits_are_found_in_every_spelling(spelling):
    parsed = parse_edits(EDITS[spelling], ANSWER)
    assert parsed.edits == (EDIT,)
    assert parsed.rationale == WHY


def test_passages_that_look_like_what_stands_between_edits_are_kept():
    for passage in ("<!-- note -->", "1.", "Edit 2:", "- ", "<Edit>x</Edit>", "a </edit> b"):
        elements = edit_reply((passage, f"{passage}!"))
        rows = json.dumps([{"find": passage, "replace": f"{passage}!"}])
        for reply in (elements, f"<edits>{rows}</edits>"):
            assert parse_edits(reply, f"a {passage}").edits == (Edit(passage, f"{passage}!"),)


def test_a_deletion_may_be_an_empty_or_a_self_closing_replacement():
    for replace in ("<replace></replace>", "<replace/>", "<replace />", "<replace>\n</replace>"):
        reply = f"<edits><edit><find>old</find>{replace}</edit></edits>"
        assert parse_edits(reply, ANSWER).edits == (Edit("old", ""),)


@pytest.mark.parametrize(
    "reply",
    [
        "nothing to do",
        "<edits><edit><find>a</find><replace>b</edit></edits>",
        "<edits><edit><find>a</find><replace>b",
        "<edits>[{'find': 'a'}]</edits>",
        '<edits>[{"find": "a"}]</edits>',
        '<edits>[["a", "b"]]</edits>',
        '{"edits": "a to b"}',
        "<edits>change a to b</edits>",
        "<edits><edit><find>a</find></edit></edits>",
        "<edits><edit><find>a</find><replace>b</replace></edit> and more</edits>",
    ],
)
def test_edits_that_are_not_well_formed_are_unparsed(reply):
    with pytest.raises(ParseError) as caught:
        parse_edits(reply, ANSWER)
    assert caught.value.reason is DropReason.UNPARSED


def test_a_reply_in_edits_becomes_the_edited_answer():
    parsed = read_reply(edit_reply(("old", "new")), "the old answer", "edits")
    assert parsed.text == "the new answer"
    assert parsed.rationale == "because"


def test_an_edit_of_text_that_is_not_there_names_the_text():
    with pytest.raises(ParseError, match="'very old'") as caught:
        read_reply(edit_reply(("very old", "new")), "the old answer", "edits")
    assert caught.value.reason is DropReason.EDIT_NOT_FOUND


@pytest.mark.parametrize("spelling", SEGMENTS)
def test_segments_are_found_in_every_spelling(spelling):
    parsed = parse_segments(SEGMENTS[spelling], ANSWER)
    (change,) = parsed.changes
    assert (change.first, change.last, change.text.strip()) == (2, 2, NEW)
    assert parsed.rationale == WHY
    assert read_reply(SEGMENTS[spelling], ANSWER, "segments").text == ANSWER.replace("old", "new")


@pytest.mark.parametrize("spelling", NO_SEGMENTS)
def test_no_segments_are_a_list_of_none(spelling):
    assert parse_segments(NO_SEGMENTS[spelling], ANSWER).changes == ()


@pytest.mark.parametrize("case", SEGMENTS_IN_DOUBT)
def test_segments_that_can_be_read_in_two_ways_or_in_none_are_unparsed(case):
    with pytest.raises(ParseError) as caught:
        parse_segments(SEGMENTS_IN_DOUBT[case], ANSWER)
    assert caught.value.reason is DropReason.UNPARSED
    assert str(caught.value)


RANGES = ["2-3", "2 - 3", "2\u20133", "2 to 3", "2..3", "2,3", "2 and 3", "2, 3", "segments 2-3"]


@pytest.mark.parametrize("spelled", RANGES)
def test_one_text_may_stand_for_a_range_of_segments(spelled):
    (change,) = parse_segments(segment_reply((spelled, "New.")), ANSWER).changes
    assert change == SegmentChange(2, 3, "New.")


UNKNOWN = {
    "no such segment": segment_reply((1, "New."), (9, "New.")),
    "zero": segment_reply((0, "New.")),
    "a range beyond the last": segment_reply(("2-999999999", "New.")),
    "a range that runs backwards": segment_reply(("2-1", "New.")),
    "two texts for one": segment_reply((2, "New."), (2, "Other.")),
    "two texts for one, once in a range": segment_reply(("1-2", "New."), (2, "Other.")),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_number_that_there_is_not_or_twice_is_like_an_edit_that_is_not_found(case):
    with pytest.raises(ParseError) as caught:
        read_reply(UNKNOWN[case], ANSWER, "segments")
    assert caught.value.reason is DropReason.EDIT_NOT_FOUND
    assert len(caught.value.faults) == 1


def test_the_echoed_form_of_segments_is_no_revision():
    asked = load_template("segments").render((Message(role="user", content="q"),), "a\nb")
    with pytest.raises(ParseError, match="only repeats the instructions"):
        parse_segments(asked[0].content, "a\nb")


def test_a_number_that_the_segment_has_itself_is_part_of_its_text():
    answer = "1. Wash.\n2. Dry.\n\n[3] A source."
    for number, text in ((1, "1. Rinse."), (2, "2. Rub."), (3, "[3] Two sources.")):
        (change,) = parse_segments(segment_reply((number, text)), answer).changes
        assert change.text == text
    answer = "Steps:\n\n1. Wash.\n2. Dry."
    for echoed in ("[3] 2. Rub.", "3. 2. Rub.", "Segment 3: 2. Rub."):
        (change,) = parse_segments(segment_reply((3, echoed)), answer).changes
        assert change.text == "2. Rub."


def test_a_new_list_may_begin_with_the_number_of_its_segment():
    text = "1. Wash it.\n2. Dry it."
    assert parse_segments(segment_reply((1, text)), ANSWER).changes[0].text == text


def test_lines_numbered_as_a_list_are_refused_where_the_answer_has_a_list():
    answer = "Steps:\n\n1. Wash.\n2. Dry."
    with pytest.raises(ParseError, match="cannot be told whether numbers such as"):
        parse_segments("<segments>\n2. Dry it well.\n</segments>", answer)
    assert parse_segments("<segments>\n[3] 2. Rub.\n</segments>", answer).changes == (
        SegmentChange(3, 3, "2. Rub."),
    )


def test_a_segment_without_a_text_is_deleted():
    for body in ('<segment n="1"></segment>', '<segment n="1"/>', "<1></1>", '{"1": ""}'):
        reply = f"<segments>\n{body}\n</segments>"
        assert read_reply(reply, ANSWER, "segments").text == "- It is **old**."


def test_text_about_the_tags_of_the_form_stays_where_the_answer_has_them():
    answer = 'Write <segment n="1">a</segment> there. It is old.'
    new = 'Write <segment n="1">a</segment> here.'
    reply = segment_reply((1, new))
    assert read_reply(reply, answer, "segments").text == f"{new} It is old."
    with pytest.raises(ParseError, match="a tag of the form"):
        parse_segments(reply, ANSWER)


def test_lines_of_code_keep_or_bring_their_indentation():
    answer = "```python\nif x:\n    y()\n```"
    for text in ("    z()", "z()", "\n    z()\n"):
        assert read_reply(segment_reply((3, text)), answer, "segments").text == answer.replace(
            "y()", "z()"
        )
    indented = '<segments>\n  <segment n="3">\n        z()\n  </segment>\n</segments>'
    with pytest.raises(ParseError, match="cannot be told how the text of segment 3 is indented"):
        parse_segments(indented, answer)


@given(text=words.filter(is_written), why=words)
def test_whatever_stands_between_the_tags_of_a_segment_is_its_text(text, why):
    assume(not text.startswith(("[2]", "2", "#2", "(")))
    assume("segment" not in text.lower())
    assume(r"\n" not in text)
    assume(not text.endswith("\\"))  # the escape of the tag behind it, as models write it
    assume("&" not in text)
    parsed = parse_segments(segment_reply((2, text), reasoning=why), ANSWER)
    assert parsed.changes == (SegmentChange(2, 2, text),)
    assert parsed.rationale == why.strip()
