"""Batches of pairs run in rows, and a loss that is the mean over the pairs of a step.

A batch of the loader is a number of pairs. `max_tokens_per_batch` cuts it into rows, each with its
own forward and backward; gradients are synchronised on the last. However a global batch is split
into rows, micro-batches and processes, its loss is the mean over its pairs, each counted once, or
by the weight that the data gives it.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clair_apo.apo.forward.attention import SEQUENCES, attends_to_trees
from clair_apo.apo.forward.batching import (
    GIVEN_WEIGHTS,
    ROW_COST,
    ROW_COST_SPREAD,
    WEIGHTS,
    alike_rows,
    cut,
    loss_weights,
    pair_weights,
    rows_of,
    take_pairs,
    uncut_reason,
    weighted_mean,
)
from clair_apo.apo.forward.layout import PairLayout
from clair_apo.apo.forward.logps import PairForward, in_batch_order, joined, padded_forward
from clair_apo.apo.forward.shared_prefix import bare_model, shared_prefix_forward
from clair_apo.apo.forward.tree import tree_sizes
from clair_apo.apo.trl_compat import is_last_batch, is_spread, unsynced
from clair_apo.float32_products import fast_float32_products

RowStep = Callable[[Any, dict[str, Any], Any], Tensor]
"""A forward and backward of one row: takes model, row and the pairs of the step."""


class Rows(NamedTuple):
    """A batch's rows: pairs that go through the model together, by their positions in the batch."""

    own: list[Sequence[int]]
    """Every pair once."""
    surplus: list[Sequence[int]]
    """Rows that only keep step with other processes."""
    whole: bool = False
    """Whether each row is the batch as it is, padding included."""

    def of(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows themselves, those of `own` first."""
        rows = self.own + self.surplus
        return [dict(batch) if self.whole else take_pairs(batch, pairs) for pairs in rows]


class RowRunner:
    """Runs batches of pairs in rows, in the layout of the run.

    Args:
        accelerator: of the run.
        layout: decides how a row goes through a model.
        max_tokens: tokens of a row at most; None never cuts.
    """

    def __init__(self, accelerator: Any, layout: PairLayout, max_tokens: int | None) -> None:
        self._accelerator = accelerator
        self._layout = layout
        self._max_tokens = max_tokens

    def forward(
        self, model: Any, batch: Mapping[str, Any], *, statistics: bool = True
    ) -> PairForward:
        """What a model says of a padded batch of B pairs.

        Args:
            model: policy or reference, wrapped or not.
            batch: `input_ids`, `attention_mask` and `completion_mask`, each (2B, T).
            statistics: whether entropies and likeliest tokens are wanted.
        """
        if WEIGHTS in batch:  # a row of a step
            return self._forward_row(model, batch, statistics)
        rows = self.rows(batch)
        found = [self._forward_row(model, row, statistics) for row in rows.of(batch)]
        order = [pair for pairs in rows.own for pair in pairs]
        return in_batch_order(joined(found[: len(rows.own)]), order)

    def _forward_row(self, model: Any, row: Mapping[str, Any], statistics: bool) -> PairForward:
        device = self._accelerator.device
        with self._accelerator.autocast(), fast_float32_products(device):
            if self._layout.is_padded:
                return padded_forward(model, row)
            return shared_prefix_forward(model, row, statistics=statistics, kernel=self._layout.way)

    def rows(self, batch: Mapping[str, Any]) -> Rows:
        """Where to cut a batch; as many rows on every process where a forward needs all of them."""
        padded = self._layout.is_padded
        whole = uncut_reason(batch) is not None or (padded and self._layout.reads_whole_batches)
        if padded:
            lengths = batch["attention_mask"].bool().sum(1).chunk(2)
            sizes = (2 * torch.maximum(*lengths)).tolist()
        else:
            sizes = tree_sizes(batch, shared=self._layout.way != SEQUENCES)
        limit = None if whole else self._max_tokens
        spread = is_spread(self._accelerator)
        cost = ROW_COST_SPREAD if spread else ROW_COST
        own: list[Sequence[int]] = (
            alike_rows(sizes, limit, cost) if padded else [*cut(sizes, limit)]
        )
        most = len(own)
        if spread:
            count = torch.tensor([most], device=self._accelerator.device)
            most = int(self._accelerator.gather(count).max())
        smallest = sizes.index(min(sizes))
        surplus: Sequence[int] = range(len(sizes)) if whole else range(smallest, smallest + 1)
        return Rows(own, [surplus] * (most - len(own)), whole)

    def weigh(self, batches: Sequence[dict[str, Any]], loader: Any, device: torch.device) -> Tensor:
        """Note which pairs of a step count; returns the sum of all weights in the loss, ().

        The weights are those of all processes: without weights in the data, they sum to the pairs.
        The sum is 1 where every pair weighs 0.

        Args:
            batches: of this process, at least one; weights are added under `WEIGHTS`.
            loader: of a whole epoch.
            device: where the weights are wanted.
        """
        at_end = is_last_batch(self._accelerator)
        for number, batch in enumerate(batches, 1):
            if GIVEN_WEIGHTS in batch:
                batch[GIVEN_WEIGHTS] = batch[GIVEN_WEIGHTS].to(device)
            batch[WEIGHTS] = pair_weights(
                rows_of(batch).to(device),
                self._accelerator,
                loader,
                last=at_end and number == len(batches),
            )
        count = torch.stack([loss_weights(batch).sum() for batch in batches]).sum()
        pairs: Tensor = self._accelerator.reduce(count)
        return torch.where(pairs == 0, 1, pairs)

    def step(
        self, model: Any, batch: Mapping[str, Any], pairs_in_step: Any, run_row: RowStep
    ) -> Tensor:
        """Run one forward and backward for each row of a batch; gradients meet on the last.

        Args:
            model: as a training step calls it.
            batch: padded, on the device.
            pairs_in_step: what `weigh` returned; None makes the step this batch.
            run_row: runs one row.

        Returns:
            The sum of what the rows return.
        """
        plan = self.rows(batch)
        rows = plan.of(batch)
        for surplus in rows[len(plan.own) :]:
            surplus[WEIGHTS] = torch.zeros_like(surplus[WEIGHTS])
        if pairs_in_step is None:  # not within a step of the Trainer: a mean over this batch
            pairs_in_step = self._own_weight(batch) * self._accelerator.num_processes
        losses = []
        with self._attention(model), fast_float32_products(self._accelerator.device):
            for number, row in enumerate(rows, 1):
                last = number == len(rows)
                waits = contextlib.nullcontext() if last else unsynced(self._accelerator, model)
                with waits:
                    losses.append(run_row(model, row, pairs_in_step))
        return torch.stack(losses).sum()

    def mean_over_step(
        self, losses: Tensor, batch: Mapping[str, Any], pairs_in_step: Tensor | float | None
    ) -> Tensor:
        """What losses (B,) add to the mean over all pairs of a step, weighted where the data says.

        Args:
            losses: of the pairs of one row.
            batch: the row; without weights in it, each counts 1.
            pairs_in_step: the sum of the weights in all rows, micro-batches and processes; None
                makes it the row's own.
        """
        if pairs_in_step is None:
            return weighted_mean(losses, batch.get(GIVEN_WEIGHTS))
        weights = loss_weights({WEIGHTS: torch.ones_like(losses), **batch})
        # gradients are averaged over processes, where the mean wants them summed
        processes: int = self._accelerator.num_processes
        mean: Tensor = (losses * weights).sum() * (processes / pairs_in_step)
        return mean

    def _own_weight(self, batch: Mapping[str, Any]) -> float:
        """The sum of the weights of this batch alone; 1 where it is 0."""
        weights = batch.get(GIVEN_WEIGHTS)
        return len(batch["input_ids"]) / 2 if weights is None else weights.sum().item() or 1.0

    def _attention(self, model: Any) -> contextlib.AbstractContextManager[None]:
        """Around forward and backward: gradient checkpointing attends in the backward pass too."""
        if self._layout.is_padded:
            return contextlib.nullcontext()
        return attends_to_trees(bare_model(model), self._layout.way)
