"""Finds prompts that share a passage with a test set: nobody should train on those.

The rule is the one of GPT-3 (arXiv 2005.14165, section 4 and appendix C), turned around to clean
the training data: one common run of 13 words is an overlap, case and punctuation aside; of a test
text that is shorter the whole text must occur. A whole text of fewer than 8 words, the smallest
n-gram used there, would occur by chance: it counts only where it is the whole message.

Only the test sets are held in memory, as 64-bit digests of their n-grams: 12 bytes for each.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clair_apo.errors import DataError
from clair_apo.ingest.rows import QUESTION_COLUMNS, questions_from_row, read_rows
from clair_apo.records import Dropped, DropReason, Prompt, Record, Stage, canonical_json
from clair_apo.text.words import words_of

NGRAM = 13
"""Words in a row that make an overlap, by default."""
SHORTEST_PASSAGE = 8
"""A test text of fewer words must be the whole message, not a part of it."""
TEST_SPLITS = ("test", "validation", "train")
"""Of a data set with several splits the first of these is the test set."""

Digests = npt.NDArray[np.uint64]


class Overlap(Record):
    """A passage that a text shares with a row of a test set."""

    row: str
    """Test set and row."""
    words: str
    """The common words, as they were compared."""


class ComparedSet(Record):
    """A test set as it was read."""

    name: str
    questions: int
    digest: str
    """SHA-256 over its questions, in their order."""


@dataclass(frozen=True)
class _Table:
    """The n-grams of one length: sorted digests, and the first row of each."""

    digests: Digests
    rows: npt.NDArray[np.uint32]

    def first_hit(self, wanted: Digests) -> tuple[int, int] | None:
        """Place in `wanted` and row number of the first digest that the table holds."""
        places = np.minimum(np.searchsorted(self.digests, wanted), len(self.digests) - 1)
        hits = np.flatnonzero(self.digests[places] == wanted)
        return (int(hits[0]), int(self.rows[places[hits[0]]])) if hits.size else None


class ContaminationIndex:
    """The questions of test sets, to look up texts in.

    Args:
        names: files, folders or hub data sets, of any form that `read_rows` reads.
        ngram: common words in a row that make an overlap; 13 by default.

    Raises:
        DataError: a test set that cannot be read, or has no row with a question.
    """

    def __init__(self, names: Sequence[str], ngram: int = NGRAM) -> None:
        self.ngram = ngram
        self._shortest = min(SHORTEST_PASSAGE, ngram)
        self._rows: list[str] = []
        self._whole: dict[str, int] = {}
        self.sets: list[ComparedSet] = []
        grams: dict[int, list[tuple[Digests, int]]] = {}
        for name in names:
            before, content = len(self._rows), hashlib.sha256()
            for row, question in _questions(name):
                self._add(row, question, grams)
                content.update(canonical_json(question).encode())
            questions = len(self._rows) - before
            self.sets.append(
                ComparedSet(name=name, questions=questions, digest=content.hexdigest())
            )
        # longest first: the more telling passage is named
        self._tables = {n: _table(grams[n]) for n in sorted(grams, reverse=True)}

    def find(self, text: str) -> Overlap | None:
        """The first passage that `text` shares with a test set; None where there is none."""
        words = words_of(text)
        digests = _digests(words)
        for n, table in self._tables.items():
            hit = table.first_hit(_ngrams(digests, n)) if len(words) >= n else None
            if hit:
                start, row = hit
                return Overlap(row=self._rows[row], words=" ".join(words[start : start + n]))
        whole = " ".join(words)
        found = self._whole.get(whole)
        return None if found is None else Overlap(row=self._rows[found], words=whole)

    def check(self, prompt: Prompt) -> Dropped | None:
        """The dropped row of a prompt of which a turn, or an answer that it brings, overlaps."""
        if not self._rows:
            return None
        texts = [message.content for message in prompt.messages]
        texts += [answer.text for answer in prompt.given]
        for text in texts:
            overlap = self.find(text)
            if overlap:
                return Dropped(
                    id=prompt.id,
                    stage=Stage.LOAD,
                    reason=DropReason.CONTAMINATED,
                    detail=f"{prompt.source}: shares with {overlap.row}: {overlap.words}",
                    raw=text,
                )
        return None

    def _add(self, row: str, question: str, grams: dict[int, list[tuple[Digests, int]]]) -> None:
        words = words_of(question)
        number = len(self._rows)
        self._rows.append(row)
        if len(words) >= self._shortest:
            n = min(len(words), self.ngram)
            grams.setdefault(n, []).append((_ngrams(_digests(words), n), number))
        elif words:
            self._whole.setdefault(" ".join(words), number)


def _questions(name: str) -> Iterator[tuple[str, str]]:
    columns: tuple[str, ...] = ()
    found = False
    for row, content in read_rows(name, TEST_SPLITS, QUESTION_COLUMNS):
        columns = columns or tuple(content)
        for question in questions_from_row(content):
            found = True
            yield row, question
    if not found:
        raise DataError(
            f"{name}: no test set: expected one of the columns {', '.join(QUESTION_COLUMNS)}, "
            f"found {', '.join(columns) or 'no rows'}"
        )


@functools.lru_cache(maxsize=1 << 17)
def _word_digest(word: str) -> int:
    # not hash(): its values differ from one process to the next
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _digests(words: Sequence[str]) -> Digests:
    return np.fromiter(map(_word_digest, words), np.uint64, len(words))


def _ngrams(digests: Digests, n: int) -> Digests:
    """One digest for each run of n words: sum of word digest times odd power, modulo 2**64."""
    return np.convolve(digests, _powers(n), "valid")


@functools.cache
def _powers(n: int) -> Digests:
    return np.cumprod(np.full(n, 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)


def _table(grams: Sequence[tuple[Digests, int]]) -> _Table:
    digests = np.concatenate([some for some, _ in grams])
    rows = np.concatenate([np.full(len(some), row, np.uint32) for some, row in grams])
    digests, first = np.unique(digests, return_index=True)
    return _Table(digests=digests, rows=rows[first])
