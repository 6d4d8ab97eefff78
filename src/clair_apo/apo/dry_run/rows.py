"""Cuts an epoch into rows as training would, and times one of them.

The row that is timed goes forward and backward once through a model of the same shape with random
weights; no weights are loaded.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from clair_apo.apo.forward.attention import attends_to_trees, tree_kernels
from clair_apo.apo.forward.batching import alike_rows, cut
from clair_apo.apo.forward.logps import padded_forward
from clair_apo.apo.forward.row_size import activation_bytes, free_memory
from clair_apo.apo.forward.shared_prefix import bare_model, shared_prefix_forward
from clair_apo.apo.lengths import CutPair, cut_pair
from clair_apo.apo.trl_compat import add_fused_lm_head, pair_collator
from clair_apo.float32_products import fast_float32_products
from clair_apo.records import Record

MOST_SECONDS = 20.0
"""A row that would take longer is not timed."""

Rows = Sequence[Mapping[str, Any]]


class RowPlan(Record):
    """The rows of one epoch, with the pairs in the order of the data: training shuffles them."""

    limit: int | None
    """Tokens of a row at most; None never cuts."""
    batches: int
    rows: int
    positions: int
    """Tokens that go through the model, padding included."""
    largest: int
    """Of them in the largest row."""
    padding: float
    """The share of them that is padding."""
    unsorted_padding: float
    """The same if rows were cut in the order of the data."""


class MeasuredRow(Record):
    """One row, really run."""

    pairs: int
    positions: int
    seconds: float | None
    """Forward and backward; None where it was not run."""
    why_not: str | None = None


class EpochRows:
    """The rows of one epoch.

    Args:
        rows: tokenized pairs, at least one.
        args: an `APOConfig`.
        limit: tokens of a row at most; None never cuts.
        padded: whether pairs do not share their beginning.
    """

    def __init__(self, rows: Rows, args: Any, limit: int | None, padded: bool) -> None:
        self._rows, self._args, self._limit, self._padded = rows, args, limit, padded
        self._pairs = [cut_pair(row, args.max_length, args.truncation_mode) for row in rows]

    def plan(self) -> RowPlan:
        """Count rows and padding."""
        alike = self._as_trained()
        plain = list(self._cut(lambda sizes, limit: cut(sizes, limit, padded=self._padded)))
        real = sum(pair.separate_tokens for pair in self._pairs)
        positions = [self._positions(row) for row in alike]
        return RowPlan(
            limit=self._limit,
            batches=len(self._batches()),
            rows=len(alike),
            positions=sum(positions),
            largest=max(positions),
            padding=1 - real / sum(positions) if self._padded else 0.0,
            unsorted_padding=1 - real / sum(map(self._positions, plain)) if self._padded else 0.0,
        )

    def typical(self) -> list[int]:
        """Which pairs are in the row of median size."""
        rows = self._as_trained()
        middle = statistics.median_low([self._positions(row) for row in rows])
        return next(list(row) for row in rows if self._positions(row) == middle)

    def measure(
        self, make_model: Callable[[torch.device], Any], expected: Callable[[int], float]
    ) -> MeasuredRow:
        """Run the typical row once, where the machine can.

        Args:
            make_model: makes a model of the run's shape on a device, its weights random.
            expected: seconds that a row of so many positions is thought to take.
        """
        pairs, device = self.typical(), self._args.device
        positions = self._positions(pairs)
        if why_not := self._obstacle(positions, make_model(torch.device("meta")), expected):
            return MeasuredRow(pairs=len(pairs), positions=positions, seconds=None, why_not=why_not)
        model = make_model(device).train()
        seconds = [self._seconds(model, pairs) for _ in range(1 if device.type == "cpu" else 2)]
        return MeasuredRow(pairs=len(pairs), positions=positions, seconds=seconds[-1])

    def _obstacle(
        self, positions: int, shapes: Any, expected: Callable[[int], float]
    ) -> str | None:
        if expected(positions) > MOST_SECONDS:
            return f"it would take about {expected(positions):.0f} s here"
        trained = sum(w.numel() * w.element_size() for w in shapes.parameters() if w.requires_grad)
        weights = sum(w.numel() * w.element_size() for w in shapes.parameters())
        wanted = weights + trained + positions * activation_bytes(shapes, self._args)
        free = free_memory(self._args.device)
        if wanted > free / 2:
            return f"it takes about {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free here"
        return None

    def _seconds(self, model: Any, pairs: Sequence[int]) -> float:
        """Forward and backward; on an accelerator the first time compiles."""
        args, bare = self._args, bare_model(model)
        collate = pair_collator(
            pad_token_id=0, max_length=args.max_length, truncation_mode=args.truncation_mode
        )
        batch = collate([dict(self._rows[pair]) for pair in pairs])
        batch = {name: column.to(args.device) for name, column in batch.items()}
        kernel = tree_kernels(args.device)[0]
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if self._padded:
            add_fused_lm_head(bare)
        attends = contextlib.nullcontext() if self._padded else attends_to_trees(bare, kernel)
        half = torch.bfloat16 if args.bf16 else torch.float16
        autocast = torch.autocast(args.device.type, half, enabled=bool(args.bf16 or args.fp16))
        _wait(args.device)
        began = time.perf_counter()
        with fast_float32_products(args.device), attends:
            with autocast:
                if self._padded:
                    found = padded_forward(model, batch)
                else:
                    found = shared_prefix_forward(model, batch, statistics=True, kernel=kernel)
            (found.logps.chosen - found.logps.rejected).sum().backward()
        _wait(args.device)
        return time.perf_counter() - began

    def _batches(self) -> list[range]:
        size, count = self._args.per_device_train_batch_size, len(self._pairs)
        return [range(first, min(first + size, count)) for first in range(0, count, size)]

    def _as_trained(self) -> list[list[int]]:
        """The rows of training, each by its pairs' places in the data."""
        return list(self._cut(alike_rows if self._padded else cut))

    def _cut(self, cutter: Callable[..., Sequence[Sequence[int]]]) -> Iterator[list[int]]:
        """Pairs of each row, by their places in the data."""
        for batch in self._batches():
            sizes = [_size(self._pairs[place], self._padded) for place in batch]
            for row in cutter(sizes, self._limit):
                yield [batch[place] for place in row]

    def _positions(self, row: Sequence[int]) -> int:
        sizes = [_size(self._pairs[place], self._padded) for place in row]
        return len(sizes) * max(sizes) if self._padded else sum(sizes)


def _size(pair: CutPair, padded: bool) -> int:
    return 2 * max(len(pair.chosen), len(pair.rejected)) if padded else pair.tree_tokens


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
