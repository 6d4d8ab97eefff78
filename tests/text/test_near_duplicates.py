"""Near-duplicates by MinHash: what is found, what is not, and how well the similarity is told."""

import random

import numpy as np
import pytest

from clair_apo.text import near_duplicates
from clair_apo.text.near_duplicates import RUN, NearDuplicates

WORDS = [f"word{n}" for n in range(5000)]
FIRST = "Write a short poem about the sea in winter, with four lines and no rhyme at all, please."


def drawn(rng, length=60):
    return rng.choices(WORDS, k=length)


def changed(rng, words, count):
    places = rng.sample(range(len(words)), count)
    return [f"new{word}" if place in places else word for place, word in enumerate(words)]


def jaccard(one, other):
    first, second = (
        {tuple(words[n : n + RUN]) for n in range(len(words) - RUN + 1)} for words in (one, other)
    )
    return len(first & second) / len(first | second)


@pytest.mark.parametrize(
    "again",
    [
        FIRST,
        FIRST.upper(),
        f"  {FIRST}!",
        FIRST.replace("please", "thanks"),
        FIRST.replace(",", "\n"),
    ],
)
def test_a_text_that_is_nearly_the_same_is_found_and_named(again):
    texts = NearDuplicates(0.8)
    assert texts.check(FIRST, "first") is None
    found = texts.check(again, "second")
    assert found.name == "first" and 0.8 <= found.similarity <= 1


@pytest.mark.parametrize(
    "other",
    [
        "Write a long story about the town in summer, with many pages and a rhyme here and there.",
        "What is the capital of France?",
        "",
        "?!",
    ],
)
def test_a_text_that_says_something_else_is_remembered_and_not_found(other):
    texts = NearDuplicates(0.8)
    texts.check(FIRST, "first")
    assert texts.check(other, "second") is None
    assert texts.find(FIRST).name == "first"


def test_texts_without_words_are_no_duplicates_of_each_other():
    texts = NearDuplicates(0.8)
    assert texts.check("???", "first") is None
    assert texts.check("!!!", "second") is None


def test_texts_of_a_word_or_two_are_compared_as_a_whole():
    texts = NearDuplicates(0.8)
    texts.check("Say hello", "first")
    assert texts.check("say HELLO!", "second").similarity == 1
    assert texts.check("say", "third") is None


def test_chinese_is_compared_by_its_characters():
    texts = NearDuplicates(0.8)
    text = "请写一首关于冬天大海的短诗,四行,不押韵,并说明你为什么这样写,谢谢你的帮助"
    texts.check(text, "first")
    assert texts.check(f"{text}。", "second").similarity == 1
    assert texts.check("请告诉我法国的首都是哪里", "third") is None


def test_the_similarity_is_the_jaccard_similarity_within_its_error():
    rng = random.Random(0)
    errors = []
    for number in range(300):
        words = drawn(rng)
        other = changed(rng, words, 1 + number % 2)
        texts = NearDuplicates(0.7)
        texts.check(" ".join(words), "first")
        found = texts.find(" ".join(other))
        if found:
            errors.append(found.similarity - jaccard(words, other))
    assert len(errors) > 250
    assert abs(np.mean(errors)) < 0.01 and np.std(errors) < 0.04


def test_nearly_all_texts_above_the_threshold_are_found_and_none_far_below_it():
    rng = random.Random(1)
    originals = [drawn(rng) for _ in range(400)]
    texts = NearDuplicates(0.8)
    assert not any(texts.check(" ".join(words), str(n)) for n, words in enumerate(originals))
    above = [texts.find(" ".join(changed(rng, words, 1))) for words in originals]  # about 0.9
    below = [texts.find(" ".join(changed(rng, words, 8))) for words in originals]  # about 0.45
    assert [found.name for found in above if found] == [
        str(number) for number, found in enumerate(above) if found
    ]
    assert sum(found is not None for found in above) > 390
    assert not any(below)


def test_older_texts_are_found_when_they_were_sorted_in(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_RECENT", 64)  # four texts
    rng = random.Random(2)
    originals = [drawn(rng) for _ in range(3000)]
    texts = NearDuplicates(0.8)
    for number, words in enumerate(originals):
        assert texts.check(" ".join(words), str(number)) is None
    for number in (0, 1, 500, 1023, 1024, 2998, 2999):
        assert texts.find(" ".join(originals[number])) == (str(number), 1.0)


def test_a_near_duplicate_is_not_remembered_so_a_chain_does_not_swallow_everything():
    rng = random.Random(3)
    words = drawn(rng, 100)
    texts = NearDuplicates(0.8)
    texts.check(" ".join(words), "0")
    kept = 0
    for number in range(1, 40):
        words[number] = f"new{number}"
        kept += texts.check(" ".join(words), str(number)) is None
    assert kept >= 3
