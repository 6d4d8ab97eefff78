"""Two texts side by side: nothing of them is lost, and it ends."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq, Levenshtein

from clair_apo import alignment
from clair_apo.alignment import TOKEN, blocks, edit_distance

# few words, many repeats, and few lines: what makes it hard
WORDS = st.lists(st.sampled_from(["the", "a", "kettle", " ", "\n", "\r\n", "  ", ".", "é", "\x85"]))
TEXTS = st.one_of(st.text(), WORDS.map("".join))
CELLS = st.sampled_from([0, 1, 5, 20, 100, 2**28])


@given(TEXTS, TEXTS, CELLS)
def test_the_blocks_of_each_side_are_its_text_however_coarse(old, new, cells):
    found = blocks(old, new, cells)
    assert "".join(block.old for block in found) == old
    assert "".join(block.new for block in found) == new
    for block in found:
        assert block.same == (block.old == block.new)
        assert block.old or block.new
    assert all(one.same != other.same for one, other in pairwise(found))


@given(TEXTS, TEXTS)
def test_two_texts_share_as_many_tokens_as_they_can(old, new):
    sides = TOKEN.findall(old), TOKEN.findall(new)
    changed = 0
    for block in blocks(old, new):
        if not block.same:
            changed += len(TOKEN.findall(block.old)) + len(TOKEN.findall(block.new))
    most = LCSseq.similarity(*sides)  # of each side the other tokens are changed
    assert changed <= len(sides[0]) + len(sides[1]) - 2 * most


def test_too_many_tokens_are_compared_line_by_line_and_then_within_the_lines():
    lines = [f"line {n} of many" for n in range(50)]
    old = "\n".join(lines)
    new = "\n".join(
        [*lines[:20], "another line", *lines[20:40], "line 40 of few", *lines[41:], "e"]
    )
    found = blocks(old, new, cells=60 * 60)  # some 400 tokens in 50 lines
    assert [(block.old, block.new) for block in found if not block.same] == [
        ("", "another line\n"),
        ("many", "few"),
        ("", "\ne"),
    ]


def test_where_there_are_too_many_lines_a_common_beginning_and_end_are_left():
    found = blocks("same\na\nb\nc\nend", "same\nd\ne\nf\nend", cells=2)
    assert [block.same for block in found] == [True, False, True]
    assert (found[0].old, found[2].old) == ("same\n", "\nend")


@given(TEXTS, TEXTS)
def test_the_edit_distance_of_texts_of_usual_length_is_exact(old, new):
    assert edit_distance(old, new) == Levenshtein.distance(old, new)


@given(TEXTS, TEXTS, st.sampled_from([1, 10, 50]))
def test_the_edit_distance_of_texts_that_are_too_long_is_never_too_small(old, new, cells):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "EXACT_CELLS", cells)
        found = edit_distance(old, new)
    assert Levenshtein.distance(old, new) <= found <= max(len(old), len(new))


def test_long_texts_that_are_near_each_other_have_their_exact_distance():
    dice = random.Random(1)
    text = "".join(dice.choices("abcdefgh \n", k=1_000_000))
    assert edit_distance("X" + text, text + "Y") == 2


TABLE = "".join(f"| {n} | {'yes' if n % 3 else 'no'} | {n * n % 7} | ok |\n" for n in range(8000))
LONG = {
    "a table, its rows turned round": (TABLE, "".join(reversed(TABLE.splitlines(keepends=True)))),
    "one line of 50,000 characters": ("ab cd " * 8334, "cd ab " * 8334),
    "two words, a million characters": ("a b " * 250_000, "b a " * 240_000),
    "one character, ten million times": ("x" * 10**7, "x" * (10**7 - 1) + "y"),
    "full stops": ("." * 200_000, ".," * 100_000),
    "nothing beside a million characters": ("", "a b\n" * 250_000),
    "blanks": (" \n" * 500_000, "\n " * 500_000),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", LONG)
def test_long_and_repetitive_texts_are_compared_in_bounded_time(case):
    old, new = LONG[case]
    found = blocks(old, new)
    assert "".join(block.old for block in found) == old
    assert "".join(block.new for block in found) == new
    assert 0 < edit_distance(old, new) <= max(len(old), len(new))
