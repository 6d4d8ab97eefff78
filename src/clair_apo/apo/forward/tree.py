"""Pairs as trees, many of them in one row: every shared beginning once, and no padding.

The chosen answer x and the rejected answer y of a pair, both with their prompt, are equal in their
first s tokens. Their tree has three parts, in this order:

    trunk      x[0], ..., x[s-2]
    chosen     x[s-1], ..., x[|x|-2]
    rejected   y[s-1], ..., y[|y|-2]

The last shared token predicts two different next tokens, so it opens both branches and every
position has one label. The last token of an answer predicts none and is left out. Positions count
from the start of the pair, and those of a branch go on where the trunk ends.

Layers with a state or a convolution share nothing. For a model with such, the trunk is empty, and
both branches are whole sequences.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

IGNORED = -100
"""The label of a position that predicts no token of an answer."""


class PairTree(NamedTuple):
    """One pair of n input tokens; tensors are on the CPU."""

    lengths: tuple[int, int, int]
    """Tokens of trunk, chosen branch and rejected branch; n in all."""
    ids: Tensor
    """(n,): token ids."""
    positions: Tensor
    """(n,): from the start of the pair."""
    labels: Tensor
    """(n,): the next token where it belongs to an answer, else `IGNORED`."""
    in_chosen: Tensor
    """(n,), boolean: where the label is a token of the chosen answer."""
    in_rejected: Tensor
    """(n,), boolean: where the label is a token of the rejected answer."""
    alike: int
    """Input tokens that both sequences begin with, whose next tokens are equal too."""

    @property
    def size(self) -> int:
        """Input tokens of the tree."""
        return sum(self.lengths)


class PackedRow(NamedTuple):
    """The trees of P pairs, one after the other, as one row of N tokens with L labels."""

    ids: Tensor
    """(1, N): token ids."""
    positions: Tensor
    """(1, N): from the start of each pair."""
    labels: Tensor
    """(1, N): `IGNORED`, or the token that comes next."""
    lengths: Tensor
    """(1, 1, P, 3): tokens of trunk, chosen and rejected branch of each pair; a mask for
    `attention.tree_attention`, so with four dimensions and of whole numbers."""
    chosen: Tensor
    """Which of the L labels, in their order, are of chosen answers; a trunk counts for both."""
    rejected: Tensor
    chosen_lengths: Tensor
    """(P,): how many of them each chosen answer has."""
    rejected_lengths: Tensor
    first_differences: Tensor
    """(P,): tokens that both answers begin with."""

    def to(self, device: torch.device) -> Self:
        """The row on another device."""
        return type(self)(*(tensor.to(device) for tensor in self))


def pair_trees(batch: Mapping[str, Tensor], *, shared: bool = True) -> list[PairTree]:
    """The tree of every pair of a padded batch.

    Args:
        batch: `input_ids`, `attention_mask` and `completion_mask`, each (2B, T), those of chosen
            answers first.
        shared: whether what both begin with is the trunk; else that is empty.
    """
    ids, seen, answers = (
        batch[key].cpu() for key in ("input_ids", "attention_mask", "completion_mask")
    )
    tokens = [row[mask].long() for row, mask in zip(ids, seen.bool(), strict=True)]
    scored = [row[mask].bool() for row, mask in zip(answers, seen.bool(), strict=True)]
    half = len(tokens) // 2
    return [
        _tree(tokens[i], tokens[half + i], scored[i], scored[half + i], shared=shared)
        for i in range(half)
    ]


def _tree(
    chosen: Tensor,
    rejected: Tensor,
    chosen_scored: Tensor,
    rejected_scored: Tensor,
    *,
    shared: bool,
) -> PairTree:
    """The tree of two sequences, given which of their tokens belong to an answer."""
    alike = max(_common_tokens(chosen, rejected) - 1, 0)
    trunk = alike if shared else 0
    of_both, of_chosen = slice(0, trunk), slice(trunk, max(len(chosen) - 1, 0))
    of_rejected = slice(trunk, max(len(rejected) - 1, 0))
    parts = ((chosen, of_both), (chosen, of_chosen), (rejected, of_rejected))
    next_scored_chosen, next_scored_rejected = chosen_scored[1:], rejected_scored[1:]
    no_chosen = torch.zeros_like(next_scored_chosen[of_chosen])
    no_rejected = torch.zeros_like(next_scored_rejected[of_rejected])
    in_chosen = torch.cat([next_scored_chosen, no_rejected])
    in_rejected = torch.cat(
        [next_scored_rejected[of_both], no_chosen, next_scored_rejected[of_rejected]]
    )
    labels = torch.cat([tokens[1:][part] for tokens, part in parts])
    return PairTree(
        lengths=(trunk, of_chosen.stop - trunk, of_rejected.stop - trunk),
        ids=torch.cat([tokens[part] for tokens, part in parts]),
        positions=torch.cat([torch.arange(part.start, part.stop) for _, part in parts]),
        labels=labels.masked_fill(~(in_chosen | in_rejected), IGNORED),
        in_chosen=in_chosen,
        in_rejected=in_rejected,
        alike=alike,
    )


def tree_sizes(batch: Mapping[str, Tensor], *, shared: bool = True) -> list[int]:
    """Input tokens of the tree of every pair, without making the trees.

    Args:
        batch: `input_ids` and `attention_mask`, each (2B, T), chosen answers first.
        shared: as for `pair_trees`.
    """
    seen = batch["attention_mask"].bool()
    ids, seen = flushed(seen, batch["input_ids"], seen)
    chosen, rejected = ids.chunk(2)
    same = (chosen == rejected) & seen.chunk(2)[0] & seen.chunk(2)[1]
    trunks = (same.cumprod(1).sum(1) - 1).clamp(min=0) * shared
    inputs = (seen.sum(1) - 1).clamp(min=0).chunk(2)
    sizes: list[int] = (inputs[0] + inputs[1] - trunks).tolist()
    return sizes


def flushed(seen: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Columns (R, T) with the padding on the right, wherever it was.

    Args:
        seen: (R, T), boolean: what is no padding.
        columns: values for each token.
    """
    order = (~seen).to(torch.uint8).argsort(dim=1, stable=True)
    return tuple(column.gather(1, order) for column in columns)


def _common_tokens(one: Tensor, other: Tensor) -> int:
    length = min(len(one), len(other))
    return int((one[:length] == other[:length]).cumprod(0).sum())


def packed_row(trees: Sequence[PairTree]) -> PackedRow:
    """Pack at least one tree into one row, on the CPU."""
    labels = torch.cat([tree.labels for tree in trees])
    labelled = labels != IGNORED
    in_chosen, in_rejected = (
        torch.cat([getattr(tree, side) for tree in trees])[labelled]
        for side in ("in_chosen", "in_rejected")
    )
    return PackedRow(
        ids=torch.cat([tree.ids for tree in trees])[None],
        positions=torch.cat([tree.positions for tree in trees])[None],
        labels=labels[None],
        lengths=torch.tensor([[[tree.lengths for tree in trees]]]),
        chosen=in_chosen.nonzero()[:, 0],
        rejected=in_rejected.nonzero()[:, 0],
        chosen_lengths=torch.stack([tree.in_chosen.sum() for tree in trees]),
        rejected_lengths=torch.stack([tree.in_rejected.sum() for tree in trees]),
        first_differences=torch.stack([tree.in_chosen[: tree.alike].sum() for tree in trees]),
    )
