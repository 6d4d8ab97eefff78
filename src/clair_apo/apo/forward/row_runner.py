"""Between TRL's trainer and ours: a batch is run in rows, and its loss is a mean over pairs.

A batch of the loader is a number of pairs. `max_tokens_per_batch` cuts it into rows, each with its
own forward and backward; gradients are synchronised on the last. However a global batch is split
into rows, micro-batches and processes, its loss is the mean over its pairs, each counted once.
"""

import contextlib
import functools
import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.trainer.dpo_trainer import DPOTrainer

from clair_apo.apo.config import MAX_TOKENS_PER_BATCH
from clair_apo.apo.forward.attention import attends_to_trees
from clair_apo.apo.forward.batching import (
    ROW,
    WEIGHTS,
    NumberedPairs,
    cut,
    pair_weights,
    rows_of,
    take_pairs,
    unwrapped_collator,
    why_uncut,
)
from clair_apo.apo.forward.cpu import fast_float32_products
from clair_apo.apo.forward.layout_check import (
    Agreement,
    compare_layouts,
    foreign_hooks,
    random_numbers_kept,
)
from clair_apo.apo.forward.layout_choice import (
    LayoutChoice,
    choose_layout,
    computes_pairs,
    reads_whole_batches,
    refused,
    why_no_trees,
)
from clair_apo.apo.forward.logps import PairForward, joined, padded_forward
from clair_apo.apo.forward.shared_prefix import bare_model, shared_prefix_forward
from clair_apo.apo.forward.tree import tree_sizes
from clair_apo.apo.trl_compat import (
    is_last_batch,
    known_columns_collator,
    overrides_loss,
    prepared_batch,
    sees_images,
    unsynced,
)

logger = logging.getLogger(__name__)


class _Rows(NamedTuple):
    """Runs of pairs, by their positions in a batch."""

    own: list[range]
    """Every pair once."""
    surplus: list[range]
    """Rows that only keep step with other processes."""
    whole: bool = False
    """Whether each row is the batch as it is, padding included."""

    @property
    def all(self) -> list[range]:
        return self.own + self.surplus

    def of(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows themselves."""
        return [dict(batch) if self.whole else take_pairs(batch, pairs) for pairs in self.all]


class _Compared(NamedTuple):
    """A model that was compared."""

    model: Any
    """Held, so that no other takes its place in memory."""
    hooks: frozenset[str]
    """Modules with hooks of the user's."""
    agreement: Agreement


class RowTrainer(DPOTrainer):
    """Runs batches of pairs in rows, in the layout that model and settings allow."""

    model: Any
    args: Any
    _layout: LayoutChoice | None = None
    _reads_whole_batches = False
    """Whether a forward may depend on the other pairs of its batch, or on the padding."""

    @functools.cached_property
    def _known_agreements(self) -> dict[int, _Compared]:
        return {}

    @property
    def computes_pairs(self) -> bool:
        """Whether objective and log-ratios are ours, not left to TRL or to a subclass."""
        return not self._has_a_loss_of_its_own and computes_pairs(self.args, self.model)

    @property
    def _has_a_loss_of_its_own(self) -> bool:
        """Whether a subclass overrides the method in which TRL computes the loss."""
        return overrides_loss(self)

    @property
    def loss_is_scaled_for_ga(self) -> bool:  # type: ignore[override] # a constant in trl
        """Whether losses are divided by the pairs of a whole step; TRL's own are means of means."""
        return self.computes_pairs

    # --- layout

    @property
    def pair_layout(self) -> str:
        """How this run lays out its pairs: `shared_prefix` or `padded`.

        Raises:
            ConfigError: `shared_prefix` was asked for by name, and does not go.
        """
        return self._choice.layout

    @property
    def _choice(self) -> LayoutChoice:
        if self._layout is None and self._has_a_loss_of_its_own:
            reason = "_compute_loss is overridden, and takes padded batches"
            if getattr(self.args, "pair_layout", "auto") == "shared_prefix":
                raise refused(reason)
            logger.warning(f"pair_layout auto: padded, because {reason}")
            self._layout = LayoutChoice("padded", reason)
        if self._layout is None:
            choice = choose_layout(
                self.args,
                self.model,
                sees_images=sees_images(self),
                parallel=self.accelerator.parallelism_config,
            )
            if choice.reason:
                logger.warning(f"pair_layout auto: padded, because {choice.reason}")
            self._layout = choice
        return self._layout

    def settle_layout(self, policy: Any = None) -> None:
        """Take trees only where they say what the model says itself: compared once for each model.

        All processes call, before anything is computed with trees. A model that was compared is
        compared again where its hooks are others.

        Args:
            policy: as its forward works now; None where it does not yet, because it will be spread
                over processes.

        Raises:
            ConfigError: `shared_prefix` was asked for by name, and is not exact.
        """
        self._reads_whole_batches = bool(
            reads_whole_batches(self.args, self.model) or foreign_hooks(self.model)
        )
        for model, name in ((policy, ""), (self.ref_model, "the reference: ")):
            if model is None or self.pair_layout == "padded":
                continue
            reason = self._agreement(model).reason
            if reason:
                self._pad(name + reason)

    def _pad(self, reason: str) -> None:
        if getattr(self.args, "pair_layout", "auto") == "shared_prefix":
            raise refused(reason)
        logger.warning(f"pair_layout auto: padded, because {reason}")
        self._layout = LayoutChoice("padded", reason)

    def _agreement(self, model: Any) -> Agreement:
        bare = bare_model(model)
        hooks = frozenset(foreign_hooks(model))
        known = self._known_agreements.get(id(bare))
        if known is None or known.hooks != hooks:
            known = _Compared(bare, hooks, self._compared(model))
            self._known_agreements[id(bare)] = known
        return known.agreement

    def _compared(self, model: Any) -> Agreement:
        """The same on every process: where one finds a difference, all do."""
        reason = why_no_trees(bare_model(model))
        if reason:
            return Agreement(0, 0.0, 0.0, reason)
        with self.accelerator.autocast():
            found = compare_layouts(model, self.first_pairs, self.accelerator.device)
        reasons = [reason for reason in gather_object([found.reason]) if reason]
        return found.because(reasons[0]) if reasons else found

    # --- batches of the data outside of a loader

    @property
    def collate_as_in_training(self) -> NumberedPairs:
        """The collator that was passed, or TRL's, given the columns that it has in training."""
        return self.numbered(unwrapped_collator(self.data_collator))

    def numbered(self, collate: Any) -> NumberedPairs:
        """A collator with its batches numbered, given no column that TRL would not give it."""
        named = (ROW, "id") if self.args.remove_unused_columns else (ROW,)
        return NumberedPairs(known_columns_collator(self, collate), named)

    def first_pairs(self, count: int, collate: Any = None) -> dict[str, Any]:
        """The first pairs of the training data as a padded batch, the same every time.

        Args:
            count: pairs, fewer where there are not so many.
            collate: by default `collate_as_in_training`.
        """
        pairs: Any = self.train_dataset
        first = list(itertools.islice(pairs, count))
        collate = collate or self.collate_as_in_training
        with random_numbers_kept(self.accelerator.device):
            batch = collate(first)
        return prepared_batch(self, batch)

    # --- forward

    def forward_pairs(
        self, model: Any, batch: Mapping[str, Any], *, statistics: bool = True
    ) -> PairForward:
        """What a model says of a padded batch of B pairs, in the layout and rows of this run.

        Args:
            model: policy or reference, wrapped or not.
            batch: `input_ids`, `attention_mask` and `completion_mask`, each (2B, T).
            statistics: whether entropies and likeliest tokens are wanted.
        """
        if WEIGHTS in batch:  # a row of a step
            return self._forward_row(model, batch, statistics)
        rows = self._rows(batch)
        found = [self._forward_row(model, row, statistics) for row in rows.of(batch)]
        return joined(found[: len(rows.own)])

    def _forward_row(
        self, model: Any, row: Mapping[str, Any], statistics: bool = True
    ) -> PairForward:
        with self.accelerator.autocast(), fast_float32_products(self.accelerator.device):
            if self.pair_layout == "padded":
                return padded_forward(model, row)
            return shared_prefix_forward(model, row, statistics=statistics)

    def _rows(self, batch: Mapping[str, Any]) -> _Rows:
        """Where to cut a batch; as many rows on every process where a forward needs all of them."""
        limit = getattr(self.args, "max_tokens_per_batch", MAX_TOKENS_PER_BATCH)
        padded = self.pair_layout == "padded"
        whole = why_uncut(batch) is not None or (padded and self._reads_whole_batches)
        if padded:
            lengths = batch["attention_mask"].bool().sum(1).chunk(2)
            sizes = (2 * torch.maximum(*lengths)).tolist()
        else:
            sizes = tree_sizes(batch)
        own = cut(sizes, None if whole else limit, padded=padded)
        most = len(own)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            count = torch.tensor([most], device=self.accelerator.device)
            most = int(self.accelerator.gather(count).max())
        smallest = sizes.index(min(sizes))
        surplus = range(len(sizes)) if whole else range(smallest, smallest + 1)
        return _Rows(own, [surplus] * (most - len(own)), whole)

    # --- training

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch the batches of a step, weigh their pairs, and count those of all processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.computes_pairs or not batches:
            return batches, items
        at_end = is_last_batch(self.accelerator)
        for number, batch in enumerate(batches, 1):
            batch[WEIGHTS] = pair_weights(
                rows_of(batch).to(device),
                self.accelerator,
                self.callback_handler.train_dataloader,
                last=at_end and number == len(batches),
            )
        count = torch.stack([batch[WEIGHTS].sum() for batch in batches]).sum()
        return batches, self.accelerator.reduce(count)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """One forward and backward for each row of a batch; gradients meet on the last."""
        if not self.computes_pairs:
            theirs: Tensor = super().training_step(  # type: ignore[no-untyped-call]
                model, inputs, num_items_in_batch
            )
            return theirs
        inputs = prepared_batch(self, inputs)
        plan = self._rows(inputs)
        rows = plan.of(inputs)
        for surplus in rows[len(plan.own) :]:
            surplus[WEIGHTS] = torch.zeros_like(surplus[WEIGHTS])
        if num_items_in_batch is None:  # not within a step of the Trainer: a mean over this batch
            num_items_in_batch = len(inputs["input_ids"]) / 2 * self.accelerator.num_processes
        losses = []
        with self._attention(model), fast_float32_products(self.accelerator.device):
            for number, row in enumerate(rows, 1):
                with (
                    contextlib.nullcontext()
                    if number == len(rows)
                    else unsynced(self.accelerator, model)
                ):
                    one = super().training_step(model, row, num_items_in_batch)  # type: ignore[no-untyped-call]
                    losses.append(one)
        return torch.stack(losses).sum()

    def mean_over_step(
        self, losses: Tensor, batch: Mapping[str, Any], pairs_in_step: Tensor | float | None
    ) -> Tensor:
        """What losses (B,) add to the mean over all pairs of a step.

        Args:
            losses: of the pairs of one row.
            batch: the row; without weights in it, each counts 1.
            pairs_in_step: in all rows, micro-batches and processes; None makes it the row's own.
        """
        if pairs_in_step is None:
            return losses.mean()
        weights = batch.get(WEIGHTS, torch.ones_like(losses))
        # gradients are averaged over processes, where the mean wants them summed
        mean: Tensor = (losses * weights).sum() * (self.accelerator.num_processes / pairs_in_step)
        return mean

    def _attention(self, model: Any) -> contextlib.AbstractContextManager[None]:
        """Around forward and backward: gradient checkpointing attends in the backward pass too."""
        if self.pair_layout == "padded":
            return contextlib.nullcontext()
        return attends_to_trees(bare_model(model))
