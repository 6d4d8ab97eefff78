"""The number of each pair that a rule looks at."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from clair_apo.clair.stages.pair import measure_contrast
from clair_apo.errors import DataError
from clair_apo.ingest.pairs import TrainingPair, pair_from_row, plain_text
from clair_apo.ingest.rows import read_rows
from clair_apo.records import digest
from clair_apo.select.rule import By

_SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
"""Columns in which data of others has the scores of both sides."""

Row = Mapping[str, Any]


class PairRow(NamedTuple):
    """A row with the pair that it holds."""

    where: str
    row: Row
    pair: TrainingPair

    @property
    def digest(self) -> str:
        """Of what a trainer is given of the pair."""
        return digest(self.pair.to_trl_row())

    @property
    def source(self) -> str:
        """Where the pair is from: its data set, or the file or data set of its prompt."""
        if self.pair.dataset_source:
            return self.pair.dataset_source
        provenance = self.row.get("provenance")
        source = provenance.get("source") if isinstance(provenance, Mapping) else None
        named = source or self.row.get("source") or ""
        return str(named).rpartition(":")[0] or str(named)


def read_pairs(name: str, split: str) -> Iterator[PairRow]:
    """The pairs of a file or data set, with the rows as they are.

    Raises:
        DataError: nothing there, or a row that is no pair.
    """
    for where, row in read_rows(name, split):
        yield PairRow(where, row, pair_from_row(row, where))


def value_of(by: By, margins: Mapping[str, float]) -> Callable[[PairRow], float | None]:
    """The function that gives a pair its number; None for a pair that has none.

    Args:
        by: which number.
        margins: log-ratio margins by the digest of the row.
    """
    if by == "score_margin":
        return _score_margin
    if by == "logratio_margin":
        return lambda row: margins.get(row.digest)
    if by == "jaccard":
        return lambda row: measure_contrast(**_texts(row)).jaccard
    return lambda row: measure_contrast(**_texts(row)).levenshtein_share


def _score_margin(row: PairRow) -> float | None:
    provenance = row.row.get("provenance")
    if isinstance(provenance, Mapping):
        both = [(provenance.get(side) or {}).get("score") for side in ("chosen", "rejected")]
    else:
        names = next((names for names in _SCORES if names[0] in row.row), _SCORES[0])
        both = [row.row.get(name) for name in names]
    if None in both:
        return None
    numbers = [score for score in both if isinstance(score, int | float)]
    if len(numbers) < len(both) or not all(map(math.isfinite, numbers)):
        raise DataError(f"{row.where}: the scores {both!r} are no numbers")
    return float(numbers[0] - numbers[1])


def _texts(row: PairRow) -> dict[str, str]:
    return {"chosen": plain_text(row.pair.chosen), "rejected": plain_text(row.pair.rejected)}
