"""What the layers of a model see of a row of trees, in the form of a mask that transformers makes.

A model asks transformers for the masks of its layers: a causal one, one with a sliding window, or
one of each. Inside `row_of_trees` it gets them from `make_mask`: not N x N of what each token sees,
but the lengths of the trees' parts and the window, (1, 1, P, 4). transformers and models hand a
mask with four dimensions on untouched. A window counts positions of a branch, so a rejected branch
sees the last tokens of its trunk, wherever in the row that lies.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clair_apo.apo.trl_compat import WeakIdKeyDictionary
from clair_apo.errors import TrainingError


class UnknownMaskError(TrainingError):
    """A model wants a mask that attention over trees does not know."""


class TreeMask(NamedTuple):
    """What the layers that share a mask see."""

    parts: tuple[tuple[int, int, int], ...]
    """Tokens of trunk, chosen and rejected branch of each pair."""
    window: int | None
    """Tokens of its branch that a token sees, itself included; None for all before it."""


class _Row:
    """The row that goes through a model, and the masks that were made for it."""

    def __init__(self, lengths: Tensor) -> None:
        self.lengths = lengths
        self._masks: dict[int, Tensor] = {}

    def mask(self, window: int | None) -> Tensor:
        """One mask for all layers with this window, (1, 1, P, 4)."""
        column = window or 0
        if column not in self._masks:
            windows = torch.full_like(self.lengths[..., :1], column)
            self._masks[column] = torch.cat([self.lengths, windows], -1)
        return self._masks[column]


_row: ContextVar[_Row | None] = ContextVar("row", default=None)
_read = WeakIdKeyDictionary()
"""The `TreeMask` of each mask that is alive."""


@contextlib.contextmanager
def row_of_trees(lengths: Tensor) -> Iterator[None]:
    """Let the model that is called here make its masks for a row of trees.

    Args:
        lengths: `PackedRow.lengths`, (1, 1, P, 3), on the CPU, so that no layer waits for a device.
    """
    token = _row.set(_Row(lengths))
    try:
        yield
    finally:
        _row.reset(token)


def make_mask(
    *,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    local_size: int | None = None,
    use_vmap: bool = False,
    **more: Any,
) -> Tensor:
    """Make the mask of some layers, in the form that transformers calls.

    Args:
        q_length: queries, N.
        kv_length: keys, N.
        mask_function: of batch, head, query and key; true where the query sees the key.
        local_size: the window that the model wants, if any.
        use_vmap: whether the model changed the mask by functions of its own.
        more: what a mask of plain batches needs; of no use here.

    Returns:
        (1, 1, P, 4): lengths of trunk, chosen and rejected branch, and the window, 0 for none.

    Raises:
        UnknownMaskError: the model wants another mask, or is given no row of trees.
    """
    row = _row.get()
    if row is None:
        raise UnknownMaskError("a model that attends to trees is given something else")
    length = int(row.lengths.sum())
    if not q_length == kv_length == length:
        raise UnknownMaskError(
            f"the model attends from {q_length} to {kv_length} places in a row of {length} tokens"
        )
    if use_vmap or not _is_sliding(mask_function, local_size, length):
        raise UnknownMaskError(
            "the model's mask is neither causal nor a sliding window (chunks, or one of its own)"
        )
    return row.mask(local_size)


def _is_sliding(mask_function: Callable[..., Tensor], window: int | None, length: int) -> bool:
    """Whether a mask is causal with this window: looked at where it would change."""
    width = length if window is None else window
    edges = torch.tensor([0, 1, width - 1, width, width + 1, 2 * width - 1, length - 1])
    queries = edges[(edges >= 0) & (edges < length)][:, None]
    keys = torch.cat([0 * queries, queries, queries + 1, queries - width, queries - width + 1], 1)
    keys = keys.clamp(0, length - 1)
    first = torch.tensor(0)
    seen = mask_function(first, first, queries, keys)
    wanted = (keys <= queries) & (keys > queries - width)
    return bool(torch.equal(seen.broadcast_to(wanted.shape).cpu(), wanted))


def read_mask(mask: Any) -> TreeMask:
    """What a layer sees, from its mask.

    Args:
        mask: of `make_mask`; one of another device is read as well.

    Raises:
        UnknownMaskError: it is something else.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[-1] != 4:
        raise UnknownMaskError("the model hands its attention no mask that it asked for")
    found = _read.get(mask)
    if found is None:
        rows: list[list[int]] = mask[0, 0].tolist()
        window = rows[0][3] if rows else 0
        found = TreeMask(tuple((a, b, c) for a, b, c, _ in rows), window or None)
        _read[mask] = found
    return found  # type: ignore[no-any-return] # of a dictionary without types
