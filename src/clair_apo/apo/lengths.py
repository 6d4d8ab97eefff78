"""Measures tokenized pairs: lengths, truncation, and what sharing a beginning saves."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from clair_apo.apo.trl_compat import common_prefix_length
from clair_apo.records import Record

Truncation = Literal["keep_start", "keep_end"]


class CutPair(NamedTuple):
    """Both sequences of one pair as the model is given them, prompt included."""

    chosen: list[int]
    rejected: list[int]
    cut_chosen: int
    """Tokens that truncation took from the chosen sequence."""
    cut_rejected: int

    @property
    def separate_tokens(self) -> int:
        """Tokens of both sequences, each on its own."""
        return len(self.chosen) + len(self.rejected)

    @property
    def tree_tokens(self) -> int:
        """Input tokens of `tree.PairTree`: what both begin with once."""
        shared = max(common_prefix_length(self.chosen, self.rejected) - 1, 0)
        # the last token of a sequence predicts nothing and is left out
        return self.separate_tokens - shared - 2


class Spread(Record):
    """How a number of tokens spreads over pairs."""

    minimum: int
    median: int
    q95: int
    maximum: int
    mean: float


class PairLengths(Record):
    """Lengths of the pairs of a data set, in tokens."""

    pairs: int
    prompt: Spread
    chosen: Spread
    """Of the chosen answers before truncation, as are prompts and rejected answers."""
    rejected: Spread
    truncated_chosen: int
    """Chosen answers that lose tokens to `max_length`."""
    truncated_rejected: int
    cut_tokens: int
    """Tokens that both sides lose."""
    separate_tokens: int
    """Tokens after truncation, two sequences for each pair."""
    tree_tokens: int
    """Tokens after truncation, with a shared beginning counted once."""
    longest_tree: int

    @property
    def saved_share(self) -> float:
        """The share of tokens that sharing the beginning saves."""
        return 1 - self.tree_tokens / self.separate_tokens


def cut_pair(row: Mapping[str, Sequence[int]], max_length: int | None, mode: Truncation) -> CutPair:
    """Truncate a tokenized pair as TRL's collator does.

    Args:
        row: `prompt_ids`, `chosen_ids` and `rejected_ids`.
        max_length: tokens of a sequence at most; None cuts nothing.
        mode: which end is kept.
    """
    kept = slice(None, max_length) if mode == "keep_start" else slice(-(max_length or 0), None)
    whole = [[*row["prompt_ids"], *row[f"{side}_ids"]] for side in ("chosen", "rejected")]
    chosen, rejected = (ids[kept] for ids in whole)
    return CutPair(chosen, rejected, len(whole[0]) - len(chosen), len(whole[1]) - len(rejected))


def pair_lengths(
    rows: Iterable[Mapping[str, Any]], max_length: int | None, mode: Truncation
) -> PairLengths:
    """Measure tokenized pairs.

    Args:
        rows: at least one, with `prompt_ids`, `chosen_ids` and `rejected_ids`.
        max_length: tokens of a sequence at most; None cuts nothing.
        mode: which end is kept.
    """
    lengths: dict[str, list[int]] = {"prompt": [], "chosen": [], "rejected": []}
    trees: list[int] = []
    separate = cut_tokens = truncated_chosen = truncated_rejected = 0
    for row in rows:
        for part, found in lengths.items():
            found.append(len(row[f"{part}_ids"]))
        pair = cut_pair(row, max_length, mode)
        trees.append(pair.tree_tokens)
        separate += pair.separate_tokens
        truncated_chosen += pair.cut_chosen > 0
        truncated_rejected += pair.cut_rejected > 0
        cut_tokens += pair.cut_chosen + pair.cut_rejected
    return PairLengths(
        pairs=len(trees),
        **{part: spread(found) for part, found in lengths.items()},
        truncated_chosen=truncated_chosen,
        truncated_rejected=truncated_rejected,
        cut_tokens=cut_tokens,
        separate_tokens=separate,
        tree_tokens=sum(trees),
        longest_tree=max(trees),
    )


def spread(values: Sequence[int]) -> Spread:
    """Summarise at least one number; quantiles are values that occur."""
    ordered = sorted(values)
    return Spread(
        minimum=ordered[0],
        median=statistics.median_low(ordered),
        q95=ordered[int(0.95 * (len(ordered) - 1))],
        maximum=ordered[-1],
        mean=statistics.fmean(ordered),
    )
