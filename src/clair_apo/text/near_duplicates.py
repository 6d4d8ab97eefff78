"""Finds near-duplicate texts by MinHash, without holding the texts.

Two texts are compared by the Jaccard similarity of their runs of three words: what they share of
all that they have. Of a text of 30 words, one changed word leaves 0.81 of it. The similarity is
estimated from 128 hash values, with a standard error of 0.035 where it is 0.8.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clair_apo.text.words import words_of

RUN = 3
"""Words in a row that are compared. Prompts are short: of longer runs one word would part them."""
_HASHES = 128
_BANDS = 16
"""Texts that agree in all hashes of a band are compared: 95 % of those that are alike by 0.8, and
61 % by 0.7."""
_RECENT = 2**18
"""Entries of a dict before they are put into sorted arrays, which take an eighth of it."""
_CHANCE = 1 / 256
"""Low bytes of two hash values are equal so often where the values are not."""

_POWERS = np.cumprod(np.full(_HASHES + _BANDS, 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)

Sketch = npt.NDArray[np.uint32]


class Match(NamedTuple):
    """An earlier text that is nearly the same."""

    name: str
    similarity: float
    """The estimated Jaccard similarity, up to 1."""


class NearDuplicates:
    """The texts so far, about 400 bytes for each, to look up others in.

    Args:
        threshold: the Jaccard similarity, 0.7 to 1, from which on texts are near-duplicates.
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHash  # it loads scipy: only where duplicates are looked for

        self.threshold = threshold
        self._empty = MinHash(num_perm=_HASHES)
        self._names: list[str] = []
        self._low = np.empty((1024, _HASHES), np.uint8)
        self._bands = _Bands()

    def find(self, text: str) -> Match | None:
        """The most similar of the remembered texts; None where none is a near-duplicate."""
        sketch = self._sketch(text)
        return None if sketch is None else self._nearest(sketch)

    def check(self, text: str, name: str) -> Match | None:
        """Remember a text that has no near-duplicate yet; of another, the most similar one.

        Args:
            text: one without words is neither remembered nor found.
            name: of the text, for the matches of later ones.
        """
        sketch = self._sketch(text)
        if sketch is None:
            return None
        found = self._nearest(sketch)
        if found is None:
            self._remember(sketch, name)
        return found

    def _sketch(self, text: str) -> Sketch | None:
        words = words_of(text)
        if not words:
            return None
        runs = {
            " ".join(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))
        }
        sketch = self._empty.copy()
        sketch.update_batch([run.encode() for run in runs])
        return np.asarray(sketch.hashvalues, np.uint32)

    def _nearest(self, sketch: Sketch) -> Match | None:
        numbers = sorted(self._bands.find(_digests(sketch)))
        if not numbers:
            return None
        equal = (self._low[numbers] == sketch.astype(np.uint8)).mean(axis=1)
        best = int(equal.argmax())
        similarity = (float(equal[best]) - _CHANCE) / (1 - _CHANCE)
        if similarity < self.threshold:
            return None
        return Match(self._names[numbers[best]], similarity)

    def _remember(self, sketch: Sketch, name: str) -> None:
        number = len(self._names)
        if number == len(self._low):
            self._low = np.concatenate([self._low, np.empty_like(self._low)])
        self._low[number] = sketch.astype(np.uint8)
        self._names.append(name)
        self._bands.add(_digests(sketch), number)


def _digests(sketch: Sketch) -> npt.NDArray[np.uint64]:
    """One digest for each band: a sum of its hash values times odd powers, modulo 2**64."""
    rows = sketch.astype(np.uint64).reshape(_BANDS, -1)
    sums = (rows * _POWERS[:_HASHES].reshape(rows.shape)).sum(axis=1, dtype=np.uint64)
    return np.asarray(sums + _POWERS[_HASHES:], np.uint64)  # the last tell the bands apart


class _Bands:
    """The first text of each band's digest: the latest in a dict, the others in sorted arrays."""

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._digests = np.empty(0, np.uint64)
        self._numbers = np.empty(0, np.uint32)

    def add(self, digests: npt.NDArray[np.uint64], number: int) -> None:
        for digest in digests.tolist():
            self._recent.setdefault(digest, number)
        if len(self._recent) >= _RECENT:
            self._sort_in()

    def find(self, digests: npt.NDArray[np.uint64]) -> set[int]:
        found = {self._recent[digest] for digest in digests.tolist() if digest in self._recent}
        if self._digests.size:
            places = np.searchsorted(self._digests, digests)
            places = np.minimum(places, self._digests.size - 1)
            found.update(self._numbers[places[self._digests[places] == digests]].tolist())
        return found

    def _sort_in(self) -> None:
        count = len(self._recent)
        digests = np.concatenate(
            [self._digests, np.fromiter(self._recent.keys(), np.uint64, count)]
        )
        numbers = np.concatenate(
            [self._numbers, np.fromiter(self._recent.values(), np.uint32, count)]
        )
        order = np.argsort(digests, kind="stable")
        self._digests, self._numbers = digests[order], numbers[order]
        self._recent = {}
