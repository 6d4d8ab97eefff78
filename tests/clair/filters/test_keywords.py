"""Which keywords a side may not hold, and how a file of them is read."""

import pytest

from clair_apo.clair import Gate, GateConfig
from clair_apo.clair.filters.keywords import Keywords
from clair_apo.errors import ConfigError, DataError
from clair_apo.records import DropReason
from tests.helpers.clair_runs import (
    Replying,
    edit_reply,
    make_config,
    rows_of,
    run,
    user,
    write_rows,
)

PROMPT = user("Who made you?")


def keywords(folder, *lines):
    path = folder / "keywords.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("entry", "text", "is_found"),
    [
        ("OpenAI", "I was made by openai.", True),
        ("OpenAI", "I was made by OpenAIs.", False),
        ("as an AI", "As  an\nAI, I do not eat.", True),
        ("as an AI", "as an AIM", False),
        ("C++", "I know C++.", True),
        ("C++", "I know C.", False),
        (".net", "Visit example.net", True),
        ("开放", "我们开放源代码", True),
        ("regex: GPT-\\d", "It is GPT-4", True),
        ("regex: GPT-\\d", "It is gpt-4", False),
        ("regex: (?i)GPT-\\d", "It is gpt-4", True),
        ("a.c", "abc", False),
    ],
)
def test_words_are_found_as_whole_words_and_expressions_as_they_are(
    tmp_path, entry, text, is_found
):
    found = Keywords(keywords(tmp_path, entry)).find(text)
    assert found == (entry if is_found else None)


def test_the_first_entry_of_the_file_is_named_and_comments_are_none(tmp_path):
    found = Keywords(keywords(tmp_path, "\ufeff# names", "", "  Claude  ", "ChatGPT"))
    assert found.find("ChatGPT and Claude") == "Claude"
    assert found.find("names") is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), r"keywords\.txt: holds no keyword"),
        (("# only a comment",), r"holds no keyword"),
        (("fine", "regex: (open"), r"keywords\.txt:2: no regular expression"),
    ],
)
def test_a_file_that_says_nothing_is_refused(tmp_path, lines, message):
    with pytest.raises(ConfigError, match=message):
        Keywords(keywords(tmp_path, *lines))


def test_a_file_that_is_not_there_is_refused_before_anything_is_asked(tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": "Hi"}])
    target = Replying([("", "x")])
    config = make_config(tmp_path, data, gate={"keywords": tmp_path / "gone.txt"})
    with pytest.raises(ConfigError, match=r"gone\.txt: cannot be read"):
        run(config, target, Replying([]))
    assert target.requests == []


def test_an_expression_that_never_ends_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("clair_apo.clair.filters.keywords.SECONDS", 0.05)
    found = Keywords(keywords(tmp_path, r"regex: (a|a)+(b|b)+(a|aa)*$"))
    with pytest.raises(DataError, match="did not come to an end"):
        found.find("a" * 40 + "b" * 40 + "a" * 60 + "!")


@pytest.mark.parametrize(
    ("chosen", "rejected", "side"),
    [
        ("I am ChatGPT.", "I am a model.", "chosen"),
        ("I am a model.", "I am ChatGPT.", "rejected"),
        ("I am a model.", "I am a program.", None),
    ],
)
def test_neither_side_may_hold_a_keyword(tmp_path, chosen, rejected, side):
    gate = Gate(GateConfig(keywords=keywords(tmp_path, "ChatGPT")))
    cause = gate.check_pair(PROMPT, chosen=chosen, rejected=rejected)
    if side is None:
        assert cause is None
    else:
        assert cause.reason is DropReason.KEYWORD
        assert cause.detail == f"{side} holds the keyword 'ChatGPT'"


def test_other_keywords_are_another_setting_and_make_the_pairs_anew_without_asking(tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": f"Question {n}?"} for n in range(3)])
    target = Replying([("Question 1?", "the old ChatGPT"), ("", "the old answer")])
    reviser = Replying([("", edit_reply(("old", "new")))])
    path = keywords(tmp_path, "Bard")
    config = make_config(tmp_path, data, gate={"keywords": path})
    assert run(config, target, reviser).pairs == 3
    asked = len(target.requests) + len(reviser.requests)
    before = Gate(config.gate).settings
    path.write_text("# names\nBard\n")
    assert Gate(config.gate).settings == before  # what it says is the same
    path.write_text("ChatGPT\n")
    assert Gate(config.gate).settings != before
    done = run(config, target, reviser)
    assert (done.pairs, done.dropped) == (2, {"keyword": 1})
    assert len(target.requests) + len(reviser.requests) == asked
    (dropped,) = rows_of(tmp_path, "dropped.jsonl")
    assert dropped["reason"] == "keyword" and dropped["raw"] == "the new ChatGPT"
