"""Repetition in answers: rep-n, repeated sentences, and distinct-n over many answers.

Words are what blanks separate, as they are written: "end." and "end" are two words. So the figures
are the same for every model, whatever its tokeniser.
"""

import re
from collections.abc import Iterable, Sequence

_SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+")
SHORTEST_SENTENCE = 3
"""Words that a sentence has at least to count as repeated: "Yes." may come twice."""


def sentences(text: str) -> list[str]:
    """The sentences of a text: what full stops, question and exclamation marks or lines end."""
    return [found for part in _SENTENCE_END.split(text) if (found := part.strip())]


def repetition(text: str, n: int) -> float:
    """The share of a text's n-grams of words that stood there before: rep-n (0 none, near 1 all).

    Formula: 1 - distinct / total n-grams. A text of fewer than n words has none, and gives 0.

    Args:
        text: one answer.
        n: words in an n-gram, at least 1.
    """
    grams = _ngrams(text.split(), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def has_repeated_sentence(text: str) -> bool:
    """Whether a sentence of three or more words stands in a text twice, whatever its case."""
    long = [
        " ".join(one.casefold().split())
        for one in sentences(text)
        if len(one.split()) >= SHORTEST_SENTENCE
    ]
    return len(set(long)) < len(long)


def distinct(texts: Iterable[str], n: int, words: int) -> float | None:
    """The share of distinct n-grams among the first `words` words of many texts: distinct-n.

    It falls with the number of words, so two models are compared at the same number of words.

    Args:
        texts: answers, read one after the other; no n-gram reaches over two of them.
        n: words in an n-gram, at least 1.
        words: how many words of the texts count.

    Returns:
        None where the texts have fewer words, or no n-gram.
    """
    grams: list[tuple[str, ...]] = []
    left = words
    for text in texts:
        taken = text.split()[:left]
        left -= len(taken)
        grams += _ngrams(taken, n)
        if not left:
            break
    return len(set(grams)) / len(grams) if grams and not left else None


def copied(text: str, source: str, n: int = 4) -> float:
    """The share of a text's n-grams of words that stand in a source too, such as its prompt.

    Case and punctuation around words do not count.

    Args:
        text: an answer.
        source: what it may have copied from.
        n: words in an n-gram.
    """
    grams = _ngrams(_bare(text), n)
    known = set(_ngrams(_bare(source), n))
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def _bare(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n)), strict=False))
