"""All segments joined are the answer, and what no change names is copied by construction."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clair_apo.clair.revision.placed import EditError
from clair_apo.clair.revision.segments import (
    LONG,
    SegmentChange,
    apply_segments,
    numbered,
    segments_of,
)

PIECES = [
    *("One. ", "Two! ", "Dr. Who", "e.g. ", "3.14 ", "... ", "\u2026 ", "Really?\u201d ", " I "),
    *("\n", "\n\n", "\r\n", "\r", " ", "\t", "    ", "\u00a0", "\u2028", "\x0b", "\x1c"),
    *("- ", "1. ", "## ", "> ", "```\n", "```python\n", "~~~", "````", "| a | b |\n", "|---|\n"),
    *("\u5929\u6c14\u5f88\u597d\u3002", "\u300c\u662f\uff01\u300d", "\U0001f600", "e\u0301"),
    *('<segment n="2">', "</segment>", "[2] ", "2. ", "def f():\n    return 1\n"),
]
ANSWERS = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(PIECES), max_size=25).map("".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=15).map("".join),
)
LINES = {
    "words": "word " * 10_000,
    "no blank": "x" * 50_000,
    "dots": "." * 50_000,
    "dots and brackets": ".)" * 25_000,
    "numbers": "1. " * 17_000,
    "sentences": "One. " * 10_000,
    "blanks": " " * 50_000,
    "bars": " |" * 25_000,
    "blanks and a letter": " " * 50_000 + "a" + " " * 50_000,
    "breaks": "\n" * 50_000,
    "lines": "a\n" * 25_000,
    "backticks": "`" * 50_000,
    "Chinese": "\u597d\u3002" * 25_000,
    "quotes": '"' * 50_000,
    "fences": "```\n" * 12_000,
}


def texts(answer):
    return [segment.text for segment in segments_of(answer)]


@given(ANSWERS)
@example("")
@example(" \n\n ")
@example("\n\n  a")
def test_all_segments_joined_are_the_answer(answer):
    segments = segments_of(answer)
    assert "".join(map(str, segments)) == answer
    assert bool(segments) == bool(answer)
    for segment in segments:
        assert segment.text == segment.text.strip()
        assert not (segment.before + segment.after).strip()
        assert "\n" not in segment.text
        assert "\r" not in segment.text
    assert all(segment.text for segment in segments) or not answer.strip()


@pytest.mark.parametrize("kind", LINES)
def test_a_very_long_line_is_cut_and_changed_in_bounded_time(kind):
    answer = LINES[kind]
    before = time.perf_counter()
    segments = segments_of(answer)
    changed = apply_segments(answer, [SegmentChange(1, len(segments), "new")])
    assert time.perf_counter() - before < 5  # of seconds; it takes a fraction of one
    assert "".join(map(str, segments)) == answer
    assert changed.strip() == "new"


def test_a_long_line_without_ends_of_sentences_is_one_segment():
    assert len(segments_of("word, " * 10_000)) == 1


CUT = {
    "sentences": ("It is old. It is long! Is it? Yes.", 4),
    "abbreviations": ("Dr. Who met J. R. Smith vs. A. B. at 9 a.m. Monday, e.g. Today.", 1),
    "a number": ("Pi is 3.14 or so, see Fig. 3 and No. 5 of vol. 2.", 1),
    "no as a word": ("He said no. Then he left.", 2),
    "a year": ("It was built in 2020. Then it fell.", 2),
    "in lower case": ("It is approx. five metres, etc. and so on.", 1),
    "speech": ('"Is it old?" he asked. "Yes." So it was.', 3),
    "an ellipsis": ("Well... yes. Well\u2026 No.", 3),
    "bold": ("**It is old.** It is long.", 2),
    "an address": ("See https://example.org/a.b?c=d. Then go.", 2),
    "Chinese": ("\u5929\u6c14\u5f88\u597d\u3002\u6211\u4eec\u8d70\u5427\uff01\u597d\u3002", 3),
    "Chinese speech": ("\u300c\u597d\u3002\u300d\u4ed6\u8bf4\u3002", 2),
    "Arabic": ("\u0645\u0627 \u0647\u0630\u0627\u061f \u0647\u0630\u0627 \u0628\u064a\u062a.", 2),
    "emoji": ("It is old. \U0001f600 It is long.", 2),
    "lines": ("one\ntwo\r\nthree\rfour", 4),
    "a list": ("- One. Two.\n- Three.\n  1. Four. Five.\n\n* Six", 4),
    "a numbered list": ("1. Wash it. Dry it.\n2. Go.", 2),
    "a heading": ("## Step 1. Wash\nWash it. Dry it.", 3),
    "a table": ("| a. B | c |\n|---|---|\n| d. E | f |\n", 3),
    "a table without outer bars": ("a. B | c\n--- | ---\nd. E | f", 3),
    "code": ("Run. It is:\n```python\nx = 'A. B'  # C. D\n\nprint(x)\n```\nDone. Bye.", 8),
    "tildes": ("~~~\n```\nA. B\n~~~\nA. It", 5),
    "a fence that never ends": ("```\nA. B. It. Is.\nIt is. Is it.", 3),
    "code in a line": ("Call ```f```. It is old.", 2),
}


@pytest.mark.parametrize("case", CUT)
def test_an_answer_is_cut_where_a_reader_would_cut_it(case):
    answer, count = CUT[case]
    assert len(texts(answer)) == count, texts(answer)


def test_a_list_item_is_cut_only_where_it_is_long():
    sentence = "It is a rather old bridge that was built long ago. "
    item = "- " + sentence * 3
    assert len(item) <= LONG
    assert len(texts(item)) == 1
    assert len(texts("- " + sentence * 6)) == 6


def test_blank_lines_and_blanks_belong_to_the_segment_before_them():
    first, second, third = segments_of("\n  One.  Two. \n\n\t\n    three\n")
    assert (first.before, first.after, first.indentation) == ("\n  ", "  ", "  ")
    assert (second.before, second.after) == ("", " \n\n\t\n")
    assert (third.before, third.after) == ("    ", "\n")


def test_the_numbered_answer_has_a_tag_around_each_segment_and_nothing_else_is_changed():
    answer = "\nOne. Two.\n\n```\n  x\n```"
    assert numbered(answer) == (
        '\n<segment n="1">One.</segment> <segment n="2">Two.</segment>\n\n'
        '<segment n="3">```</segment>\n<segment n="4">  x</segment>\n<segment n="5">```</segment>'
    )


@given(st.data())
def test_what_no_change_names_is_copied_as_it_is(data):
    answer = data.draw(ANSWERS, label="answer")
    segments = segments_of(answer)
    numbers = data.draw(st.sets(st.integers(1, max(1, len(segments)))), label="numbers")
    if not answer.strip():
        return
    new = {number: f"new{number}" for number in numbers}
    changes = [SegmentChange(number, number, text) for number, text in new.items()]
    changes = data.draw(st.permutations(changes), label="changes")
    assert apply_segments(answer, changes) == "".join(
        f"{segment.before}{new.get(number, segment.text)}{segment.after}"
        for number, segment in enumerate(segments, 1)
    )


@given(st.data())
def test_a_deletion_touches_no_other_segment_but_the_gap_beside_it(data):
    answer = data.draw(ANSWERS.filter(str.strip), label="answer")
    segments = segments_of(answer)
    gone = data.draw(st.sets(st.integers(1, len(segments))), label="gone")
    left = [segment.text for number, segment in enumerate(segments, 1) if number not in gone]
    result = apply_segments(answer, [SegmentChange(number, number, " ") for number in gone])
    assert "".join(result.split()) == "".join("".join(left).split())
    position = 0
    for text in left:  # each stands in the result, in order
        position = result.index(text, position) + len(text)


@given(ANSWERS.filter(str.strip))
def test_a_segment_that_is_written_again_as_it_was_shown_changes_nothing(answer):
    changes = [
        SegmentChange(number, number, segment.indentation + segment.text)
        for number, segment in enumerate(segments_of(answer), 1)
    ]
    assert apply_segments(answer, changes) == answer


@given(ANSWERS)
def test_no_changes_leave_any_text_as_it_is(answer):
    assert apply_segments(answer, []) == answer


CHANGES = {
    "a sentence in a paragraph": ("One. Two. Three.", (2, "2."), "One. 2. Three."),
    "a sentence with blanks around": ("One. Two. Three.", (2, "\n 2. \n"), "One. 2. Three."),
    "a deleted sentence": ("One. Two. Three.", (2, ""), "One. Three."),
    "the first sentence": ("One. Two.\n\nThree.", (1, ""), "Two.\n\nThree."),
    "the last sentence of a paragraph": ("One. Two.\n\nThree.", (2, ""), "One.\n\nThree."),
    "the first sentence of a paragraph": ("One.\n\nTwo. Three.", (2, ""), "One.\n\nThree."),
    "a paragraph": ("One.\n\nTwo.\n\nThree.", (2, ""), "One.\n\nThree."),
    "the last paragraph": ("One.\n\nTwo.\n", (2, ""), "One.\n"),
    "the only segment": ("One.\n", (1, ""), ""),
    "a list item": ("- a\n- b\n\nEnd", (2, ""), "- a\n\nEnd"),
    "a line of code": ("if x:\n    y()\n    z()", (2, ""), "if x:\n    z()"),
    "a line of code that is changed": ("if x:\n    y()\n", (2, "    z()"), "if x:\n    z()\n"),
    "without its indentation": ("if x:\n    y()\n", (2, "z()"), "if x:\n    z()\n"),
    "with another indentation": ("if x:\n    y()\n", (2, "\n  z()"), "if x:\n  z()\n"),
    "indentation in a sentence": ("One. Two.", (2, "    2."), "One. 2."),
    "a single blank before it": ("One.\nTwo.", (2, " 2."), "One.\n2."),
    "more text": ("One. Two.", (1, "One.\n\n- new\n- more"), "One.\n\n- new\n- more Two."),
    "Chinese": (
        "\u597d\u3002\u662f\u3002\u4e0d\u3002",
        (2, "\u5bf9\u3002"),
        "\u597d\u3002\u5bf9\u3002\u4e0d\u3002",
    ),
    "several lines with their indentation": (
        "if x:\n    y()\n    z()",
        (2, "    a()\n    b()"),
        "if x:\n    a()\n    b()\n    z()",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_new_text_stands_in_the_place_of_a_segment(case):
    answer, (number, text), result = CHANGES[case]
    assert apply_segments(answer, [SegmentChange(number, number, text)]) == result


def test_the_beginning_of_a_long_indented_line_leaves_its_indentation_to_the_rest():
    rest = "It is a rather old bridge that was built long ago. " * 6
    answer = f"- a\n    First of all. {rest}"
    assert apply_segments(answer, [SegmentChange(2, 2, "")]) == f"- a\n    {rest}"


def test_a_range_is_replaced_as_one():
    answer = "One. Two.\n\nThree. Four."
    assert apply_segments(answer, [SegmentChange(2, 3, "2-3.")]) == "One. 2-3. Four."
    assert apply_segments(answer, [SegmentChange(2, 3, "")]) == "One.\n\nFour."


def test_deleted_neighbours_leave_one_gap():
    answer = "One. Two.\n\nThree. Four."
    changes = [SegmentChange(3, 3, ""), SegmentChange(2, 2, "")]
    assert apply_segments(answer, changes) == "One.\n\nFour."
    changes.append(SegmentChange(1, 1, "1."))
    assert apply_segments(answer, changes) == "1.\n\nFour."


FAULTS = {
    "no such number": ([(5, 5, "x")], "names segment 5, and the answer has segments 1 to 3"),
    "a range behind the last": ([(4, 5, "x")], "names segments 4 to 5, and the answer has"),
    "zero": ([(0, 0, "x")], "names segment 0"),
    "a range that is too long": ([(2, 9, "x")], "names segments 2 to 9"),
    "a range that runs backwards": ([(3, 2, "x")], "names segments 3 to 2"),
    "twice": ([(2, 2, "x"), (2, 2, "y")], "segment 2 is changed twice"),
    "twice, once in a range": ([(1, 2, "x"), (2, 2, "y")], "segment 2 is changed twice"),
    "indentation that is open": ([(3, 3, "x\n    y")], "segment 3 is indented"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_change_that_cannot_be_applied_is_named(fault):
    changes, message = FAULTS[fault]
    for order in (changes, changes[::-1]):
        with pytest.raises(EditError, match=message) as caught:
            apply_segments("One. Two.\n    three", [SegmentChange(*change) for change in order])
        assert len(caught.value.faults) == 1


ADDED = {
    "behind the last": ([(3, 3, "Three.")], "One. Two. Three."),
    "two, in any order": ([(4, 4, "Four."), (3, 3, "Three.")], "One. Two. Three. Four."),
    "with the last one changed": ([(2, 2, "2."), (3, 3, "3.")], "One. 2. 3."),
    "with the last one deleted": ([(2, 2, ""), (3, 3, "3.")], "One. 3."),
    "with a range up to the last": ([(1, 2, "1-2."), (3, 3, "3.")], "1-2. 3."),
}


@pytest.mark.parametrize("case", ADDED)
def test_what_is_numbered_on_behind_the_last_segment_is_added(case):
    changes, result = ADDED[case]
    assert apply_segments("One. Two.", [SegmentChange(*change) for change in changes]) == result


def test_what_is_added_takes_the_gap_before_the_last_segment():
    assert apply_segments("- a\n- b\n", [SegmentChange(3, 3, "- c")]) == "- a\n- b\n- c\n"
    assert apply_segments("One.", [SegmentChange(2, 2, "Two.")]) == "One. Two."


def test_a_number_with_a_gap_before_it_is_not_added():
    changes = [SegmentChange(3, 3, "x"), SegmentChange(5, 5, "y")]
    with pytest.raises(EditError) as caught:
        apply_segments("One. Two.", changes)
    assert len(caught.value.faults) == 2


def test_all_changes_that_cannot_be_applied_are_named_at_once():
    changes = [SegmentChange(7, 7, "x"), SegmentChange(1, 1, "x"), SegmentChange(1, 1, "y")]
    with pytest.raises(EditError) as caught:
        apply_segments("One. Two.", changes)
    assert len(caught.value.faults) == 2
