"""Which pairs of its data a batch holds: rows are numbered, and batches carry the numbers.

B is the number of pairs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

ROW = "clair_apo_row"
"""The column of a prepared data set that numbers its pairs; no name for a column of a user's."""
ROWS = "rows"
"""The key of a batch with the numbers of its pairs, (B,), int64; -1 where there is none."""


class NumberedPairs:
    """A collator whose batches say which rows they hold, under `ROWS`.

    Args:
        collate: makes the batches; it is given the rows as they are.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows."""
        numbers = torch.tensor([row.get(ROW, -1) for row in rows])
        return {**self.collate(rows), ROWS: numbers}


def rows_of(batch: Mapping[str, Any]) -> Tensor:
    """Which rows a padded batch holds, (B,); -1 where it was made by another collator."""
    ids = batch["input_ids"]
    return batch.get(ROWS, ids.new_full((len(ids) // 2,), -1))  # type: ignore[no-any-return]
