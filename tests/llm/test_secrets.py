"""Keys in texts and JSON values: in no spelling, and not in part."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.llm.secrets import MASK, Mask

KEY = 'sk-proj/Ab+9"Zz&\\0123456789abcdef'
SPELLINGS = {
    "as it is": KEY,
    "JSON": json.dumps(KEY)[1:-1],
    "Python": repr(KEY)[1:-1],
    "HTML": html.escape(KEY),
    "address": quote(KEY, safe=""),
    "form": quote_plus(KEY),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_key_is_hidden_in_every_spelling(spelling):
    shown = SPELLINGS[spelling]
    assert Mask([KEY]).text(f"Bearer {shown} and {shown}!") == f"Bearer {MASK} and {MASK}!"


@pytest.mark.parametrize("user", ["", "u", "us", "user", "some.body"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_no_letter_that_tells_of_the_key_is_left_of_basic_authorization(user, encode):
    before = f"{user}:" if user else ""
    encoded = encode(f"{before}{KEY}:rest".encode()).decode()
    left = Mask([KEY]).text(encoded)
    # what is left encodes at most what stands before and after, and bits of one letter beside it
    assert len(left.replace(MASK, "")) <= 2 * len(encoded) - 8 * len(KEY) // 6 - len(encoded) + 2
    assert MASK in left


@given(st.integers(8, len(KEY) - 1))
def test_the_beginning_of_a_key_at_the_end_of_a_text_is_hidden(length):
    assert Mask([KEY]).text(f"<b>Bearer {KEY[:length]}") == f"<b>Bearer {MASK}"


def test_names_and_values_at_any_depth_are_masked_and_nothing_else_changes():
    value = {f"x {KEY}": [{"a": KEY, "b": 1, "c": None, "d": 1.5, "e": True}], "f": "plain"}
    masked = Mask([KEY]).value(value)
    assert masked == {"x ***": [{"a": "***", "b": 1, "c": None, "d": 1.5, "e": True}], "f": "plain"}


def test_what_is_nested_deeper_than_an_answer_is_refused():
    value = "x"
    for _ in range(300):
        value = [value]
    with pytest.raises(RecursionError):
        Mask([]).value(value)


@pytest.mark.parametrize("word", [None, "", "none", "EMPTY", "test"])
def test_a_word_that_stands_for_no_key_is_no_secret(word):
    assert Mask([word]).text("EMPTY is a test, none else") == "EMPTY is a test, none else"


def test_a_short_key_is_hidden_as_a_word_and_not_within_others():
    mask = Mask(["secret"])
    assert mask.text("the secret: 'secret'.") == "the ***: '***'."
    assert mask.text("a secretary") == "a secretary"
