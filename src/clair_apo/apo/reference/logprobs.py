"""The keys of pairs in the reference cache, and a collator that adds the reference's log-probs.

B is the number of pairs of a batch.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from clair_apo.apo.forward.batching import Collate, WrappedCollator
from clair_apo.apo.reference.storage import PairTokenLogps
from clair_apo.errors import TrainingError

SUM_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
"""What a batch carries for each side, (B,), summed over the answer; TRL's names."""
TOKEN_COLUMNS = (
    "ref_chosen_token_logps",
    "ref_chosen_lengths",
    "ref_rejected_token_logps",
    "ref_rejected_lengths",
)
"""What a batch carries of each scored token: the fields of a `TokenLogps` for each side."""


class KnownPairs(NamedTuple):
    """The keys and sizes of P pairs."""

    keys: list[bytes]
    """A digest of the token ids that the model is given, and of where the answers begin."""
    tokens: NDArray[np.int64]
    """(P,): in both rows of a pair, prompt included."""


def pair_keys(batch: Mapping[str, Any]) -> KnownPairs:
    """The keys of a padded batch's pairs: token ids after truncation, and nothing else."""
    ids, attended, answered = (
        batch[name].cpu().numpy() for name in ("input_ids", "attention_mask", "completion_mask")
    )
    rows = []
    tokens = attended.sum(1).astype(np.int64)
    for row_ids, present, answer in zip(ids, attended.astype(bool), answered, strict=True):
        row = hashlib.sha256(row_ids[present].astype("<i8").tobytes())
        row.update(answer[present].astype("u1").tobytes())
        rows.append(row.digest())
    half = len(rows) // 2
    keys = [hashlib.sha256(rows[i] + rows[i + half]).digest() for i in range(half)]
    return KnownPairs(keys, tokens[:half] + tokens[half:])


class CollateWithReference(WrappedCollator):
    """A collator whose batches carry the reference's log-probs.

    Args:
        collate: makes the padded batches.
        known: answers by key; may grow afterwards.
        tail_weight: TRL's `ld_alpha`, the weight of tokens beyond the shorter answer's length.
    """

    def __init__(
        self,
        collate: Collate,
        known: dict[bytes, PairTokenLogps],
        tail_weight: float | None,
    ) -> None:
        super().__init__(collate)
        self.known = known
        self.tail_weight = tail_weight

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows, and look each pair of them up.

        Raises:
            TrainingError: a pair whose reference is not known, or not of these tokens.
        """
        batch = dict(self.collate(rows))
        pairs = [self._of(key) for key in pair_keys(batch).keys]
        expected = batch["completion_mask"][:, 1:].bool().sum(1).chunk(2)
        for side in range(2):
            answers = [pair[side] for pair in pairs]
            lengths = torch.tensor([len(answer) for answer in answers])
            if not torch.equal(lengths, expected[side]):
                raise TrainingError(
                    "the reference cache has log-probs of another number of tokens than the "
                    "batch; look at it with: clair-apo reference verify"
                )
            values = torch.from_numpy(np.concatenate(answers))
            sums = [self._sum(side, pair) for pair in pairs]
            batch[SUM_COLUMNS[side]] = torch.tensor(sums, dtype=values.dtype)
            batch |= zip(TOKEN_COLUMNS[2 * side : 2 * side + 2], (values, lengths), strict=True)
        return batch

    def _of(self, key: bytes) -> PairTokenLogps:
        try:
            return self.known[key]
        except KeyError:
            raise TrainingError(
                "a batch holds a pair whose reference log-probs are not known. Under FSDP and "
                "DeepSpeed they are found or computed when training begins: to evaluate before, "
                "run clair-apo reference build"
            ) from None

    def _sum(self, side: int, pair: PairTokenLogps) -> float:
        values = pair[side].astype(np.float64)
        if self.tail_weight is None:
            return float(values.sum())
        shared = min(map(len, pair))
        return float(values[:shared].sum() + self.tail_weight * values[shared:].sum())
