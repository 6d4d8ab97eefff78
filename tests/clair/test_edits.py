"""What no edit names is copied by construction."""

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clair_apo.clair import Edit, EditError, apply_edits


@given(st.data())
def test_edited_text_is_the_pieces_between_the_spans_with_the_replacements_in_them(data):
    answer = data.draw(st.text(min_size=1, max_size=80), label="answer")
    ends = data.draw(
        st.lists(st.integers(0, len(answer)), unique=True, max_size=8).map(sorted), label="ends"
    )
    spans = [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=False)]
    assume(all(_occurrences(answer, answer[a:b]) == 1 for a, b in spans))
    replacements = [data.draw(st.text(max_size=10)) for _ in spans]
    edits = [Edit(answer[a:b], r) for (a, b), r in zip(spans, replacements, strict=True)]
    expected, end = "", 0
    for (a, b), replacement in zip(spans, replacements, strict=True):
        expected += answer[end:a] + replacement
        end = b
    expected += answer[end:]
    assert apply_edits(answer, edits) == expected
    random.Random(0).shuffle(edits)
    assert apply_edits(answer, edits) == expected


def _occurrences(text, piece):
    return sum(text.startswith(piece, at) for at in range(len(text)))


@given(st.text())
def test_no_edits_leave_any_text_as_it_is(answer):
    assert apply_edits(answer, []) == answer


def test_a_replacement_is_not_searched_by_the_other_edits():
    assert apply_edits("a b", [Edit("a", "b"), Edit("b", "c")]) == "b c"


def test_patterns_and_back_references_are_plain_text():
    assert apply_edits("cost: $5 (\\1)", [Edit("$5 (\\1)", "\\g<0> {0} %s")]) == (
        "cost: \\g<0> {0} %s"
    )


def test_edits_that_touch_do_not_overlap():
    assert apply_edits("abcd", [Edit("ab", "1"), Edit("cd", "2")]) == "12"


FAULTS = {
    "not in the answer": ("abc", [Edit("x", "y")], "not in the answer: 'x'"),
    "another case": ("abc", [Edit("A", "y")], "not in the answer: 'A'"),
    "twice": ("abab", [Edit("ab", "y")], "twice: 'ab'"),
    "twice, overlapping": ("aaa", [Edit("aa", "y")], "twice: 'aa'"),
    "no passage": ("abc", [Edit("", "y")], "names no passage"),
    "overlap": ("abcd", [Edit("abc", "1"), Edit("cd", "2")], "overlaps another one: 'cd'"),
    "inside another": ("abcd", [Edit("abcd", "1"), Edit("b", "2")], "overlaps another one: 'b'"),
    "the same again": ("abc", [Edit("b", "1"), Edit("b", "1")], "overlaps another one: 'b'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_edit_that_cannot_be_applied_is_named(fault):
    answer, edits, message = FAULTS[fault]
    for order in (edits, edits[::-1]):
        with pytest.raises(EditError, match=message):
            apply_edits(answer, order)


def test_a_long_passage_is_shortened_in_the_error():
    with pytest.raises(EditError) as caught:
        apply_edits("abc", [Edit("x" * 500, "")])
    assert len(str(caught.value)) < 120
