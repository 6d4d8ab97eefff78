"""Repetition: rep-n, repeated sentences, distinct-n, and what was copied from a prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.text.repetition import (
    copied,
    distinct,
    has_repeated_sentence,
    repetition,
    sentences,
)

texts = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=30).map(" ".join)


@given(texts, st.integers(1, 4))
def test_rep_n_counts_the_ngrams_that_stood_there_before(text, n):
    words = text.split()
    seen, repeated, total = set(), 0, 0
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        total += 1
        repeated += gram in seen
        seen.add(gram)
    assert repetition(text, n) == pytest.approx(repeated / total if total else 0.0)


def test_the_last_ngram_counts():
    # a loop that ends one n-gram early would give 0
    assert repetition("a b a b", 2) == pytest.approx(1 / 3)


def test_a_sentence_that_comes_again_is_found_whatever_its_case():
    assert has_repeated_sentence("Take the bus. It is late. take the bus.")
    assert has_repeated_sentence("Take the bus\nIt is late\nTake the bus")
    assert not has_repeated_sentence("Take the bus. Take the train.")
    assert not has_repeated_sentence("Yes. No. Yes.")


def test_sentences_end_at_marks_and_lines():
    assert sentences("One. Two!\n\n- three\nFour?") == ["One.", "Two!", "- three", "Four?"]


def test_distinct_n_is_taken_at_an_equal_number_of_words():
    assert distinct(["a b a b", "c"], 1, 4) == 0.5
    assert distinct(["a b a b", "c"], 1, 5) == pytest.approx(3 / 5)
    assert distinct(["a b"], 1, 3) is None


def test_distinct_n_knows_no_ngram_over_two_answers():
    assert distinct(["a b", "a b"], 2, 4) == 0.5


def test_copied_is_the_share_of_ngrams_of_the_prompt():
    prompt = "You answer text messages for a help line."
    assert copied("you answer TEXT messages: gladly", prompt) == 0.5
    assert copied("Water them daily, please do", prompt) == 0.0
    assert copied("", prompt) == 0.0
