"""Which marks of format a text holds."""

import time

import pytest

from clair_apo.text.markup import MARKUP


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Plain words, 2 * 3 * 4, and a_b__c__d.", set()),
        ("- one\n- two", {"list"}),
        ("Steps:\n  1. boil\n  2. eat", {"list"}),
        ("\u2022 one", {"list"}),
        ("# Title\ntext", {"heading"}),
        ("####### no title, #hashtag", set()),
        ("This is **bold** here.", {"bold"}),
        ("2 ** 3 and ** nothing **", set()),
        ("Try:\n```python\nx = 1\n```", {"code"}),
        ("Inline `code` only", set()),
        ("Well done \U0001f389", {"emoji"}),
        ("I \u2764\ufe0f it", {"emoji"}),
        ("\u00a9 2026, #1 *", set()),
        ("\u4f60\u597d\uff0c\u4e16\u754c", set()),
    ],
)
def test_each_kind_of_markup_is_found_and_nothing_else(text, kinds):
    assert {kind for kind, holds in MARKUP.items() if holds(text)} == kinds


def test_long_odd_texts_take_no_long_time():
    begun = time.perf_counter()
    for text in ("\n" * 100_000, "*" * 100_000, "**a" * 30_000, " " * 100_000, "#" * 100_000):
        assert not MARKUP["list"](text) and not MARKUP["heading"](text)
        MARKUP["bold"](text)
    assert time.perf_counter() - begun < 2
