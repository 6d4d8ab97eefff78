"""Which pairs of its data a batch holds: rows are numbered, and batches carry the numbers.

B is the number of pairs.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

ROW = "clair_apo_row"
"""The column of a prepared data set that numbers its pairs; no name for a column of a user's."""
ROWS = "rows"
"""The key of a batch with the numbers of its pairs, (B,), int64; -1 where there is none."""
IMAGES = "images_per_pair"
"""The key of a batch with how many images each prompt has, (B,), int64; only where there are any.
"""
WEIGHTS = "pair_weights"
"""The key of a batch with the weight of each pair, (B,): 0 where it only fills up, else 1."""
TOKENS_PER_WINNER = "tokens_per_winner"
"""The key of a batch with the mean length of the winners of its step, the same for each pair, (B,).
"""

Collate = Callable[[list[dict[str, Any]]], Mapping[str, Any]]
"""Makes a padded batch of rows of a data set."""


class WrappedCollator:
    """A collator that adds to the batches of another.

    Args:
        collate: the other.
    """

    def __init__(self, collate: Collate) -> None:
        self.collate = collate


def unwrapped_collator(collate: Any) -> Collate:
    """The collator that was passed, or TRL's, without what is added to its batches here."""
    while isinstance(collate, WrappedCollator):
        collate = collate.collate
    return collate  # type: ignore[no-any-return] # of a trainer


class NumberedPairs(WrappedCollator):
    """A collator whose batches say which rows they hold, under `ROWS`.

    The other is given rows with the columns that TRL gives it.

    Args:
        collate: the other.
        ours: columns that are kept to name pairs, and that TRL's trainer would not have kept.
    """

    def __init__(self, collate: Collate, ours: Collection[str] = (ROW,)) -> None:
        super().__init__(collate)
        self._ours = frozenset(ours)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows."""
        added = {ROWS: torch.tensor([row.get(ROW, -1) for row in rows])}
        if any("image" in row or "images" in row for row in rows):
            added[IMAGES] = torch.tensor([_images(row) for row in rows])
        given = [{k: v for k, v in row.items() if k not in self._ours} for row in rows]
        return {**self.collate(given), **added}


def _images(row: Mapping[str, Any]) -> int:
    return 1 if "image" in row else len(row["images"] or ())


def rows_of(batch: Mapping[str, Any]) -> Tensor:
    """Which rows a padded batch holds, (B,); -1 where it was made by another collator."""
    ids = batch["input_ids"]
    return batch.get(ROWS, ids.new_full((len(ids) // 2,), -1))  # type: ignore[no-any-return]
