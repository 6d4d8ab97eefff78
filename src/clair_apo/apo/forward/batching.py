"""Padded batches of pairs: their keys, how pairs are numbered and weighed, and cutting batches.

- Keys: what a batch of B pairs carries beside TRL's columns, which have 2B rows.
- Numbers: `NumberedPairs` and `PairBatches` make batches that say which rows of the data they hold.
- Weights: accelerate fills the last batch of several processes with pairs of the first; those
  count neither in the loss nor in the metrics. The data may give each pair a weight in the loss.
- Cutting: `cut` decides where, `take_pairs` takes part of a batch.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from clair_apo.apo.forward.noise import random_numbers_kept
from clair_apo.apo.trl_compat import (
    BatchSamplerShard,
    IterableDatasetShard,
    known_columns_collator,
    prepared_batch,
)
from clair_apo.errors import TrainingError

ROW = "clair_apo_row"
"""The column of a prepared data set that numbers its pairs; no name for a column of a user's."""
WEIGHT = "weight"
"""The column of a data set with the weight of each pair in the loss: a number, 0 or above."""
SOURCE = "dataset_source"
"""The column of a data set with the name of the data set of a mixture that each pair is from."""
ROWS = "rows"
"""The key of a batch with the numbers of its pairs, (B,), int64; -1 where there is none."""
IMAGES = "images_per_pair"
"""The key of a batch with how many images each prompt has, (B,), int64; only where there are any.
"""
WEIGHTS = "pair_weights"
"""The key of a batch with the weight of each pair, (B,): 0 where it only fills up, else 1."""
GIVEN_WEIGHTS = "given_weights"
"""The key of a batch with the column `weight` of its pairs, (B,), float32; only where there is one.
"""
TOKENS_PER_CHOSEN = "tokens_per_chosen"
"""The key of a batch with the mean length of the chosen answers of its step, (B,): one number."""

ROW_COST = 512
"""Tokens that a row more may cost where it saves padding: an estimate of what its launches, and one
more pass over the weights, take; not measured."""
ROW_COST_SPREAD = 4096
"""The same where every row gathers the weights of all processes."""

Collate = Callable[[list[dict[str, Any]]], Mapping[str, Any]]
"""Makes a padded batch of rows of a data set."""

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
_OF_PAIRS = frozenset({IMAGES, WEIGHTS, GIVEN_WEIGHTS, ROWS, TOKENS_PER_CHOSEN})
"""Columns of ours with a value for each pair, (B,)."""


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
    """A collator whose batches say which rows they hold, under `ROWS`, and what those weigh.

    The other is given rows with the columns that TRL gives it.

    Args:
        collate: the other.
        ours: columns that are kept to name pairs, and that TRL's trainer would not have kept.
    """

    def __init__(self, collate: Collate, ours: Collection[str] = (ROW, SOURCE)) -> None:
        super().__init__(collate)
        self._ours = frozenset(ours)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows, and number their pairs."""
        added = {ROWS: torch.tensor([row.get(ROW, -1) for row in rows])}
        if any(WEIGHT in row for row in rows):
            weights = [float(row[WEIGHT]) for row in rows]
            added[GIVEN_WEIGHTS] = torch.tensor(weights, dtype=torch.float32)
        if any("image" in row or "images" in row for row in rows):
            added[IMAGES] = torch.tensor([_images(row) for row in rows])
        given = [{k: v for k, v in row.items() if k not in self._ours} for row in rows]
        return {**self.collate(given), **added}


def _images(row: Mapping[str, Any]) -> int:
    return 1 if "image" in row else len(row["images"] or ())


class PairBatches:
    """Batches of a run's pairs outside of its loaders, made as in training.

    Args:
        trainer: a trainer of transformers; its data set and collator are read when they are used.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    @property
    def collate(self) -> NumberedPairs:
        """The collator that was passed, or TRL's, given the columns that it has in training."""
        return self.numbered(unwrapped_collator(self._trainer.data_collator))

    def numbered(self, collate: Any) -> NumberedPairs:
        """A collator with its batches numbered, given no column that TRL would not give it."""
        drops = self._trainer.args.remove_unused_columns
        named = (ROW, SOURCE, "id", WEIGHT) if drops else (ROW, SOURCE)
        return NumberedPairs(known_columns_collator(self._trainer, collate), named)

    def first(self, count: int, collate: Any = None) -> dict[str, Any]:
        """The first pairs of the training data as a padded batch, the same every time.

        Args:
            count: pairs, fewer where there are not so many.
            collate: by default `collate`.
        """
        pairs: Any = self._trainer.train_dataset
        first = list(itertools.islice(pairs, count))
        collate = collate or self.collate
        with random_numbers_kept(self._trainer.accelerator.device):
            batch = collate(first)
        return prepared_batch(self._trainer, batch)


def rows_of(batch: Mapping[str, Any]) -> Tensor:
    """Which rows a padded batch holds, (B,); -1 where it was made by another collator."""
    ids = batch["input_ids"]
    return batch.get(ROWS, ids.new_full((len(ids) // 2,), -1))  # type: ignore[no-any-return]


def loss_weights(batch: Mapping[str, Any]) -> Tensor:
    """The weight in the loss of each pair of a batch of a step, (B,).

    It is what the data gives, 1 where that gives none, and 0 for a pair that only fills up.
    """
    counts: Tensor = batch[WEIGHTS]
    return counts * batch[GIVEN_WEIGHTS].to(counts) if GIVEN_WEIGHTS in batch else counts


def is_weighted(pairs: Any) -> bool:
    """Whether pairs have a column `weight`.

    Args:
        pairs: a data set, a stream, of which the first row is read, a dictionary of them, or None.
    """
    if isinstance(pairs, Mapping):
        return any(map(is_weighted, pairs.values()))
    columns = getattr(pairs, "column_names", None)
    if columns is None and pairs is not None:
        columns = next(iter(pairs), ())
    return WEIGHT in (columns or ())


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of values (B,), each weighted by its own; 0 where all weights are 0, ().

    Args:
        values: of each pair.
        weights: of each pair, (B,); None weighs all alike.
    """
    if weights is None:
        return values.mean()
    total = weights.to(values).sum()
    return (values * weights.to(values)).sum() / torch.where(total == 0, 1, total)


def pair_weights(rows: Tensor, accelerator: Any, loader: Any, *, last: bool) -> Tensor:
    """The weight of each pair of a training batch, (B,): 0 for those that only fill up, else 1.

    Args:
        rows: each pair's place in the data, (B,). For a stream all processes must call.
        accelerator: knows the processes.
        loader: the batches of a whole epoch, whether or not a resumed run skips some.
        last: whether this is the last batch of the epoch.
    """
    if accelerator.num_processes == 1:
        return torch.ones(len(rows), device=rows.device)
    first = accelerator.process_index * len(rows)
    if fills_a_stream(loader):
        given = given_by_stream(accelerator.gather(rows))
        return given[first : first + len(rows)].float()
    weights = torch.ones(len(rows), device=rows.device)
    beyond = _beyond_full_batches(loader)
    if last and beyond:
        weights[max(beyond - first, 0) :] = 0
    return weights


def count_tokens(
    batches: Sequence[dict[str, Any]], pairs: Tensor, accelerator: Any, device: torch.device
) -> None:
    """Tell each batch of a step the mean length of its chosen answers, under `TOKENS_PER_CHOSEN`.

    Answers count by the weight of their pairs in the loss.

    Args:
        batches: of this process, with weights.
        pairs: the sum of all weights of all processes, ().
        accelerator: knows the processes; all must call.
        device: where the weights are.
    """
    lengths = [
        b["completion_mask"][:, 1:].chunk(2)[0].sum(1).to(device, torch.float32) for b in batches
    ]
    products = [n @ loss_weights(b).to(n) for n, b in zip(lengths, batches, strict=True)]
    count = accelerator.reduce(torch.stack(products).sum())
    per_chosen = torch.where(count == 0, 1, count) / pairs  # 0 where every pair weighs 0
    for batch in batches:
        batch[TOKENS_PER_CHOSEN] = per_chosen.expand(len(batch[WEIGHTS]))


def _beyond_full_batches(loader: Any) -> int:
    """Pairs of data with a length that the last batch of all processes holds; 0 where it is full.

    accelerate counts them too, but not in the epoch in which a run is resumed.
    """
    sampler = loader.batch_sampler
    if not isinstance(sampler, BatchSamplerShard) or sampler.drop_last or not sampler.even_batches:
        return 0
    if sampler.batch_size is None:
        return 0
    together = 1 if sampler.split_batches else sampler.num_processes
    beyond: int = len(loader.dataset) % (sampler.batch_size * together)
    return beyond


def fills_a_stream(loader: Any) -> bool:
    """Whether a loader deals one stream out to all processes, and fills its last batch.

    A stream with a part for every process is read in parts, and not filled.
    """
    return isinstance(getattr(loader, "dataset", None), IterableDatasetShard)


def given_by_stream(rows: Tensor) -> Tensor:
    """Which pairs of one batch of all processes a stream gave, as booleans; the rest fills it up.

    A stream's pairs are numbered as they come, and what fills up begins again with the first.

    Args:
        rows: the numbers, in the order of the processes; -1 where there is none, which counts.
    """
    return (rows < 0) | (rows == rows[0] + torch.arange(len(rows), device=rows.device))


def cut(sizes: Sequence[int], limit: int | None, *, padded: bool = False) -> list[range]:
    """Divide items into runs of at most `limit` tokens: as few as possible, and then as even.

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


def alike_rows(
    sizes: Sequence[int], limit: int | None, row_cost: int = ROW_COST
) -> list[Sequence[int]]:
    """Divide items into rows of like size, which costs the least with padding and rows together.

    Args:
        sizes: tokens of each item; every item of a row takes as many as its largest.
        limit: tokens of a row at most, but for an item that is larger; None makes one row of all.
        row_cost: tokens that a row more may cost.

    Returns:
        The positions of each row, smaller items first; one row alone is in the order given.
    """
    if limit is None:
        return [range(len(sizes))]
    order = sorted(range(len(sizes)), key=lambda item: (sizes[item], item))
    costs, starts = [0], [0]  # of the first items of the order, and where their last row starts
    for end in range(1, len(order) + 1):
        largest = sizes[order[end - 1]]
        fitting = max(limit // max(largest, 1), 1)
        ways = (
            (costs[start] + (end - start) * largest + row_cost, start)
            for start in range(max(end - fitting, 0), end)
        )
        cost, start = min(ways)
        costs.append(cost)
        starts.append(start)
    rows: list[Sequence[int]] = []
    end = len(order)
    while end:
        rows.append(order[starts[end] : end])
        end = starts[end]
    return [range(len(sizes))] if len(rows) == 1 else rows[::-1]


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
        batch: tensors or lists of 2B rows, chosen answers first, or of B rows, one for each pair.
            Values of tokens end to end, `*_token_logps`, have their number for each of the rows
            in `*_lengths`. Images may lie end to end, where `IMAGES` counts them.
        pairs: positions, from 0 to B - 1.

    Raises:
        TrainingError: nothing says which part of a column belongs to which pair.
    """
    half = len(batch["input_ids"]) // 2
    if list(pairs) == list(range(half)):
        return dict(batch)
    if uncut := uncut_reason(batch):
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


def uncut_reason(batch: Mapping[str, Any]) -> str | None:
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
        assert parts is not None  # else uncut_reason names it
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
    """Whether a column may have one value for each image: known by name, else assumed."""
    if key in _OF_TOKENS or key in _OF_PAIRS or key.startswith("ref_"):
        return False
    return IMAGES in batch or key.startswith(("image", "pixel"))


def _images_of_rows(batch: Mapping[str, Any], key: str) -> list[Tensor] | None:
    """What each of the 2B rows has of a column of images, (0 or more, ...); None if unknown."""
    value, counts = batch[key], batch.get(IMAGES)
    if counts is None or not isinstance(value, Tensor) or not value.dim():
        return None
    rows = 2 * counts.tolist()  # images of the chosen answers, then the same for the rejected ones
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
