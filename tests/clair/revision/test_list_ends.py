"""Lists of segments as a weak model ended them: 50 of 94 replies of a 1.5B model did it so."""

import pytest

from clair_apo.clair.revision.parse import ParseError, parse_segments
from clair_apo.clair.revision.segment_list import with_end
from clair_apo.clair.revision.segments import SegmentChange

ANSWER = "It is cold. It is wet. It is dark."
ONE = '<segment n="2">It is dry.</segment>'
BEGIN = "<reasoning>\nIt is wrong.\n</reasoning>\n<segments>\n"

ENDS = {
    "the tag of a segment once more": f"{ONE}\n</segment>",
    "with words behind it": f"{ONE}\n</segment>\n</conversation>",
    "behind a change that deletes": f'{ONE} <segment n="3"/>\n</segment>',
}


@pytest.mark.parametrize("case", ENDS)
def test_a_list_that_only_lacks_its_end_is_read(case):
    found = parse_segments(BEGIN + ENDS[case], ANSWER)
    assert found.changes[0] == SegmentChange(2, 2, "It is dry.")
    assert found.rationale.strip() == "It is wrong."
    assert len(found.changes) == 1 + ("deletes" in case)


def test_the_list_begins_at_its_own_tag_and_not_where_the_reasoning_names_it():
    text = (
        f"<reasoning>\nIt opens <segments> too early.\n</reasoning>\n<segments>\n{ONE}\n</segment>"
    )
    assert parse_segments(text, ANSWER).changes == (SegmentChange(2, 2, "It is dry."),)


@pytest.mark.parametrize("end", [f'{ONE} <segment n="3">It is', ONE, f"{ONE}\n</answer>"])
def test_a_change_or_a_list_that_nothing_closes_leaves_the_reply_as_it_is(end):
    text = f"{BEGIN}{end}"
    assert with_end(text) == text
    with pytest.raises(ParseError):
        parse_segments(text, ANSWER)


def test_a_list_with_its_end_is_left_alone():
    text = f"{BEGIN}{ONE}\n</segments>\n</segment>"
    assert with_end(text) == text


def test_a_tag_that_was_closed_before_its_number_is_read():
    text = f'{BEGIN}<segment>n="2">It is dry.</segment>\n</segment>'
    assert parse_segments(text, ANSWER).changes == (SegmentChange(2, 2, "It is dry."),)


@pytest.mark.parametrize("word", ["n/a", "None", "No changes"])
def test_a_segment_without_a_number_around_a_word_for_nothing_is_an_empty_list(word):
    text = f"{BEGIN}<segment>{word}</segment>\n</segments>"
    assert parse_segments(text, ANSWER).changes == ()
