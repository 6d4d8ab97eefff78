from hypothesis import given
from hypothesis import strategies as st

from clair_apo.report.pairs_page import word_diff

# few words, many repeats: what makes diffs hard
WORDS = st.lists(st.sampled_from(["the", "a", "kettle", " ", "\n", "  ", ".", "é", "x1"]))
TEXTS = st.one_of(st.text(), WORDS.map("".join))


def joined(spans, *kinds):
    return "".join(span.text for span in spans if not kinds or span.kind in kinds)


@given(TEXTS, TEXTS)
def test_the_spans_of_each_side_are_its_text(rejected, chosen):
    diff = word_diff(rejected, chosen)
    assert joined(diff.rejected) == rejected
    assert joined(diff.chosen) == chosen


@given(TEXTS, TEXTS)
def test_what_is_called_the_same_is_the_same_on_both_sides(rejected, chosen):
    diff = word_diff(rejected, chosen)
    assert joined(diff.rejected, "same") == joined(diff.chosen, "same")


@given(TEXTS)
def test_equal_texts_have_no_changed_span(text):
    diff = word_diff(text, text)
    assert joined(diff.rejected, "changed") == joined(diff.chosen, "changed") == ""


def test_only_the_changed_word_is_marked():
    diff = word_diff("Boil it, then rinse.", "Boil it, then dry.")
    assert [(s.kind, s.text) for s in diff.rejected] == [
        ("same", "Boil it, then "),
        ("changed", "rinse"),
        ("same", "."),
    ]
    assert [(s.kind, s.text) for s in diff.chosen] == [
        ("same", "Boil it, then "),
        ("changed", "dry"),
        ("same", "."),
    ]


def test_a_blank_between_two_changed_words_is_no_island():
    diff = word_diff("drop all old words here", "drop every new one here")
    assert joined(diff.rejected, "changed") == "all old words"
    assert [span.kind for span in diff.rejected] == ["same", "changed", "same"]


def test_a_change_of_nothing_but_blanks_is_a_change():
    diff = word_diff("one two", "one  two")
    assert [(s.kind, s.text) for s in diff.chosen] == [
        ("same", "one"),
        ("changed", "  "),
        ("same", "two"),
    ]


def test_a_frequent_word_in_a_long_text_is_still_matched():
    long = "the cat and the dog. " * 100
    diff = word_diff(long, "Well: " + long)
    assert joined(diff.chosen, "changed") == "Well: "


def test_a_table_of_a_hundred_rows_that_moved_is_compared():
    table = [f"| {n} | yes | no | {n % 7} | ok |" for n in range(150)]
    diff = word_diff("\n".join(table), "Here it is:\n\n" + "\n".join(table[1:]) + "\n" + table[0])
    assert joined(diff.chosen, "changed").startswith("Here it is:")
    assert len(joined(diff.rejected, "changed")) < 100
