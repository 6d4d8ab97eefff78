"""Pairs as trees, many of them in one row: every shared beginning once, and no padding.

Winner x and loser y of a pair, both with their prompt, are equal in their first s tokens. Their
tree has three parts, in this order:

    trunk      x[0], ..., x[s-2]
    chosen     x[s-1], ..., x[|x|-2]
    rejected   y[s-1], ..., y[|y|-2]

The last shared token predicts two different next tokens, so it opens both branches and every
position has one label. The last token of an answer predicts none and is left out. Positions count
from the start of the pair, and those of a branch go on where the trunk ends.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from clair_apo.apo.numbering import IMAGES, ROWS, TOKENS_PER_WINNER, WEIGHTS
from clair_apo.errors import TrainingError

IGNORED = -100
"""The label of a position that predicts no token of an answer."""

_RAGGED = "_token_logps"
_OF_TOKENS = frozenset(
    {
        "input_ids",
        "attention_mask",
        "completion_mask",
        "position_ids",
        "token_type_ids",
        "mm_token_type_ids",
    }
)
"""Columns with a value for each token of each row, (2B, T)."""
_GRID = "image_grid_thw"
"""How many patches each image has, (images, 3): always one image after the other."""
_OF_PAIRS = frozenset({IMAGES, WEIGHTS, ROWS, TOKENS_PER_WINNER})
"""Columns of ours with a value for each pair, (B,)."""


class PairTree(NamedTuple):
    """One pair of n input tokens; tensors are on the CPU."""

    lengths: tuple[int, int, int]
    """Tokens of trunk, chosen branch and rejected branch; n in all."""
    ids: Tensor
    """(n,)."""
    positions: Tensor
    """(n,)."""
    labels: Tensor
    """(n,): the next token where it belongs to an answer, else `IGNORED`."""
    in_chosen: Tensor
    """(n,), boolean: where the label is a token of the winner."""
    in_rejected: Tensor
    """(n,), boolean."""

    @property
    def size(self) -> int:
        """Input tokens."""
        return sum(self.lengths)


class PackedRow(NamedTuple):
    """The trees of P pairs, one after the other, as one row of N tokens with L labels."""

    ids: Tensor
    """(1, N)."""
    positions: Tensor
    """(1, N)."""
    labels: Tensor
    """(1, N): `IGNORED`, or the token that comes next."""
    lengths: Tensor
    """(1, 1, P, 3): tokens of trunk, chosen and rejected branch of each pair; a mask for
    `attention.tree_attention`, so with four dimensions and of whole numbers."""
    chosen: Tensor
    """Which of the L labels, in their order, are tokens of the winners; a trunk's are of both."""
    rejected: Tensor
    chosen_lengths: Tensor
    """(P,): how many of them each winner has."""
    rejected_lengths: Tensor
    first_differences: Tensor
    """(P,): tokens that both answers begin with."""

    def to(self, device: torch.device) -> Self:
        """The row on another device."""
        return type(self)(*(tensor.to(device) for tensor in self))


def pair_trees(batch: Mapping[str, Tensor]) -> list[PairTree]:
    """The tree of every pair of a padded batch.

    Args:
        batch: `input_ids`, `attention_mask` and `completion_mask`, each (2B, T), winners first.
    """
    ids, seen, answers = (
        batch[key].cpu() for key in ("input_ids", "attention_mask", "completion_mask")
    )
    tokens = [row[mask].long() for row, mask in zip(ids, seen.bool(), strict=True)]
    scored = [row[mask].bool() for row, mask in zip(answers, seen.bool(), strict=True)]
    half = len(tokens) // 2
    return [_tree(tokens[i], tokens[half + i], scored[i], scored[half + i]) for i in range(half)]


def _tree(
    chosen: Tensor, rejected: Tensor, chosen_scored: Tensor, rejected_scored: Tensor
) -> PairTree:
    """The tree of two sequences, given which of their tokens belong to an answer."""
    trunk = max(_common_tokens(chosen, rejected) - 1, 0)
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
    )


def tree_sizes(batch: Mapping[str, Tensor]) -> list[int]:
    """Input tokens of the tree of every pair, without making the trees.

    Args:
        batch: `input_ids` and `attention_mask`, each (2B, T), winners first.
    """
    seen = batch["attention_mask"].bool()
    ids, seen = flushed(seen, batch["input_ids"], seen)
    chosen, rejected = ids.chunk(2)
    same = (chosen == rejected) & seen.chunk(2)[0] & seen.chunk(2)[1]
    shared = (same.cumprod(1).sum(1) - 1).clamp(min=0)
    inputs = (seen.sum(1) - 1).clamp(min=0).chunk(2)
    sizes: list[int] = (inputs[0] + inputs[1] - shared).tolist()
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
    """One row of at least one tree, on the CPU."""
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
        first_differences=torch.stack([tree.in_chosen[: tree.lengths[0]].sum() for tree in trees]),
    )


def cut(sizes: Sequence[int], limit: int | None, *, padded: bool = False) -> list[range]:
    """Cut items into runs of at most `limit` tokens: as few as possible, and then as even.

    Args:
        sizes: tokens of each item, in order.
        limit: an item larger than it makes a run of its own; None makes one run of all.
        padded: whether every item of a run takes as many tokens as its largest.

    Returns:
        The positions of each run, in order.
    """
    if limit is None:
        return [range(len(sizes))]
    fewest = len(_filled(sizes, limit, padded))
    low, high = sum(sizes) // fewest, limit  # the lowest limit that needs no more runs
    while low < high:
        middle = (low + high) // 2
        enough = len(_filled(sizes, middle, padded)) <= fewest
        low, high = (low, middle) if enough else (middle + 1, high)
    return _filled(sizes, high, padded)


def _filled(sizes: Sequence[int], limit: int, padded: bool) -> list[range]:
    """Runs that are each filled up to the limit before the next begins."""
    starts, tokens, largest = [0], 0, 0
    for position, size in enumerate(sizes):
        tokens, largest = tokens + size, max(largest, size)
        taken = largest * (position + 1 - starts[-1]) if padded else tokens
        if taken > limit and position > starts[-1]:
            starts.append(position)
            tokens = largest = size
    return [range(*ends) for ends in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def take_pairs(batch: Mapping[str, Any], pairs: Sequence[int]) -> dict[str, Any]:
    """The given pairs of a padded batch, without the columns that are padding for all of them.

    All pairs in their order are the batch as it is.

    Args:
        batch: tensors or lists of 2B rows, winners first, or of B rows, one for each pair. Values
            of tokens end to end, `*_token_logps`, have their number for each of the rows in
            `*_lengths`. Images may lie end to end, where `IMAGES` counts them.
        pairs: positions, from 0 to B - 1.

    Raises:
        TrainingError: nothing says which part of a column belongs to which pair.
    """
    half = len(batch["input_ids"]) // 2
    if list(pairs) == list(range(half)):
        return dict(batch)
    if uncut := why_uncut(batch):
        raise TrainingError(f"a batch cannot be cut between pairs: {uncut}")
    one = torch.as_tensor(pairs, device=batch["input_ids"].device)
    both = torch.cat([one, one + half])
    taken = {key: _taken(batch, key, one, both) for key in batch}
    # without any image, processors make no column of images, and models expect none
    taken = {k: v for k, v in taken.items() if not (_is_of_images(batch, k) and len(v) == 0)}
    used = int(taken["attention_mask"].any(0).nonzero()[-1]) + 1
    width = batch["input_ids"].shape[1]
    for key in _OF_TOKENS & set(taken):
        if taken[key].shape[1:2] == (width,):
            taken[key] = taken[key][:, :used]
    return taken


def why_uncut(batch: Mapping[str, Any]) -> str | None:
    """Why a padded batch cannot be cut between pairs; None if it can."""
    for key, value in batch.items():
        if _is_of_images(batch, key):
            known = _images_of_rows(batch, key) is not None
        else:
            known = key.endswith(_RAGGED) or _is_cut_by_rows(value, len(batch["input_ids"]))
        if not known:
            return f"nothing says which part of {key} belongs to which pair"
    return None


def _is_cut_by_rows(value: Any, rows: int) -> bool:
    if isinstance(value, Tensor) and value.dim():
        return len(value) in (rows, rows // 2)
    return not isinstance(value, list | tuple) or len(value) in (rows, rows // 2)


def _taken(batch: Mapping[str, Any], key: str, one: Tensor, both: Tensor) -> Any:
    """What belongs to some pairs of one column of a batch that can be cut."""
    value = batch[key]
    if _is_of_images(batch, key):
        parts = _images_of_rows(batch, key)
        assert parts is not None  # else why_uncut names it
        return torch.cat([parts[row] for row in both.tolist()])
    if key.endswith(_RAGGED):
        lengths = batch[key.removesuffix(_RAGGED) + "_lengths"]
        answers = value.split(lengths.tolist())
        wanted = one if len(lengths) == len(batch["input_ids"]) // 2 else both
        return torch.cat([answers[position] for position in wanted.tolist()])
    if isinstance(value, list | tuple):
        wanted = both if len(value) == len(batch["input_ids"]) else one
        return [value[position] for position in wanted.tolist()]
    if not isinstance(value, Tensor) or not value.dim():
        return value
    return value[(both if len(value) == len(batch["input_ids"]) else one).to(value.device)]


def _is_of_images(batch: Mapping[str, Any], key: str) -> bool:
    """Whether a column may lie image by image: by its name, or where all that is not known may."""
    if key in _OF_TOKENS or key in _OF_PAIRS or key.startswith("ref_"):
        return False
    return IMAGES in batch or key.startswith(("image", "pixel"))


def _images_of_rows(batch: Mapping[str, Any], key: str) -> list[Tensor] | None:
    """What each of the 2B rows has of a column of images, (0 or more, ...); None if unknown."""
    value, counts = batch[key], batch.get(IMAGES)
    if counts is None or not isinstance(value, Tensor) or not value.dim():
        return None
    rows = 2 * counts.tolist()  # the winners' images, then the same for the losers
    images, grid = sum(rows), batch.get(_GRID)
    if key == "pixel_values" and grid is not None:  # patches end to end, as many as the grid says
        patches = grid.prod(-1).tolist()
        if len(patches) != images or len(value) != sum(patches):
            return None
        of_images = iter(value.split(patches))
        return [torch.cat([value[:0], *itertools.islice(of_images, count)]) for count in rows]
    by_row = len(value) == len(rows) and key != _GRID
    by_image = len(value) == images
    if by_row and by_image and set(rows) != {1}:
        return None
    if by_row:
        return list(value.split(1))
    return list(value.split(rows)) if by_image else None
