"""Pairs as rows without a partner, for TRL's `KTOTrainer`; we have no second trainer.

`KTOTrainer` estimates KTO's KL term from mismatched answers: within each batch, in the order of
the rows, every prompt is combined with the answer of the row before. TRL's own unpairing
writes a thousand chosen answers and then the rejected ones, so a batch holds one label alone. The
order here alternates chosen and rejected answers and keeps both answers to a prompt apart.
"""

from collections.abc import Sequence
from typing import Any

from clair_apo.ingest.pairs import TrainingPair


def unpaired_rows(pairs: Sequence[TrainingPair]) -> list[dict[str, Any]]:
    """Each pair as two of TRL's unpaired preference rows.

    Args:
        pairs: N of them.

    Returns:
        2N rows with `id`, `prompt`, `completion` and `label` (True: chosen), a chosen answer
        first, then alternating. The two rows of a pair are at least N - 2 apart.
    """
    half = len(pairs) // 2
    rows = []
    for number, pair in enumerate(pairs):
        other = pairs[(number + half) % len(pairs)]
        rows.append(_row(pair, "chosen"))
        rows.append(_row(other, "rejected"))
    return rows


def _row(pair: TrainingPair, side: str) -> dict[str, Any]:
    row = pair.to_trl_row()
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "completion": row[side],
        "label": side == "chosen",
    }
