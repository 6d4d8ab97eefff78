"""Between TRL's trainer and ours: a batch is run in rows, and its loss is a mean over pairs.

A batch of the loader is a number of pairs. `max_tokens_per_batch` cuts it into rows, each with its
own forward and backward; gradients are synchronised on the last. However a global batch is split
into rows, micro-batches and processes, its loss is the mean over its pairs, each counted once.
"""

# mypy: allow-untyped-calls
# trl is typed in part only

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from trl.trainer.dpo_trainer import DPOTrainer

from clair_apo.apo.attention import attends_to_trees
from clair_apo.apo.config import MAX_TOKENS_PER_BATCH
from clair_apo.apo.float32_products import fast_float32_products
from clair_apo.apo.layout import cut, take_pairs, tree_sizes
from clair_apo.apo.logps import PairForward, joined, padded_forward
from clair_apo.apo.numbering import rows_of
from clair_apo.apo.repeats import pair_weights
from clair_apo.apo.shared_prefix import bare_model, shared_prefix_forward
from clair_apo.apo.support import choose_layout, computes_pairs
from clair_apo.errors import ConfigError

WEIGHTS = "pair_weights"
"""The key of a batch with the weight of each pair, (B,): 0 where it only fills up, else 1."""

logger = logging.getLogger(__name__)


class _Rows(NamedTuple):
    """Runs of pairs, by their positions in a batch."""

    own: list[range]
    """Every pair once."""
    surplus: list[range]
    """Rows that only keep step with other processes."""

    @property
    def all(self) -> list[range]:
        return self.own + self.surplus


class RowTrainer(DPOTrainer):
    """Runs batches of pairs in rows, in the layout that model and settings allow."""

    model: Any
    args: Any
    _layout: str | None = None

    @property
    def computes_pairs(self) -> bool:
        """Whether objective and log-ratios are ours, not left to TRL or to a subclass."""
        return not self._has_a_loss_of_its_own and computes_pairs(self.args, self.model)

    @property
    def _has_a_loss_of_its_own(self) -> bool:
        """Whether a subclass overrides the method in which TRL computes the loss."""
        return getattr(self._compute_loss, "__func__", None) is not DPOTrainer._compute_loss

    @property
    def loss_is_scaled_for_ga(self) -> bool:  # type: ignore[override] # a constant in trl
        """Whether losses are divided by the pairs of a whole step; TRL's own are means of means."""
        return self.computes_pairs

    @property
    def pair_layout(self) -> str:
        """How this run lays out its pairs: `shared_prefix` or `padded`.

        Raises:
            ConfigError: `shared_prefix` was asked for by name, and does not go.
        """
        if self._layout is None and self._has_a_loss_of_its_own:
            if getattr(self.args, "pair_layout", "auto") == "shared_prefix":
                raise ConfigError(
                    "pair_layout shared_prefix: _compute_loss is overridden, and takes padded "
                    "batches; set pair_layout to auto"
                )
            logger.warning("pair_layout auto: padded, because _compute_loss is overridden")
            self._layout = "padded"
        if self._layout is None:
            choice = choose_layout(
                self.args,
                self.model,
                sees_images=self._is_vlm,
                parallel=self.accelerator.parallelism_config,
            )
            if choice.reason:
                logger.warning(f"pair_layout auto: padded, because {choice.reason}")
            self._layout = choice.layout
        return self._layout

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
        found = [self._forward_row(model, take_pairs(batch, row), statistics) for row in rows.all]
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
        if padded:
            lengths = batch["attention_mask"].sum(1).chunk(2)
            sizes = (2 * torch.maximum(*lengths)).tolist()
        else:
            sizes = tree_sizes(batch)
        own = cut(sizes, limit, padded=padded)
        most = len(own)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            count = torch.tensor([most], device=self.accelerator.device)
            most = int(self.accelerator.gather(count).max())
        smallest = sizes.index(min(sizes))
        return _Rows(own, [range(smallest, smallest + 1)] * (most - len(own)))

    # --- training

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch the batches of a step, weigh their pairs, and count those of all processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.computes_pairs or not batches:
            return batches, items
        at_end = self.accelerator.gradient_state.end_of_dataloader
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
            theirs: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return theirs
        inputs = self._prepare_inputs(inputs)
        plan = self._rows(inputs)
        rows = [take_pairs(inputs, row) for row in plan.all]
        for surplus in rows[len(plan.own) :]:
            surplus[WEIGHTS] = torch.zeros(1, device=surplus["input_ids"].device)
        if num_items_in_batch is None:  # not within a step of the Trainer: a mean over this batch
            num_items_in_batch = len(inputs["input_ids"]) / 2 * self.accelerator.num_processes
        losses = []
        with self._attention(model), fast_float32_products(self.accelerator.device):
            for number, row in enumerate(rows, 1):
                with contextlib.nullcontext() if number == len(rows) else self._unsynced(model):
                    losses.append(super().training_step(model, row, num_items_in_batch))
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

    @contextlib.contextmanager
    def _unsynced(self, model: Any) -> Iterator[None]:
        """Within a step, before its last row."""
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
            with self.accelerator.no_sync(model):
                yield
            return
        state = self.accelerator.gradient_state  # DeepSpeed's optimizer steps where it is true
        syncs = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            yield
        finally:
            state._set_sync_gradients(syncs)

    def _attention(self, model: Any) -> contextlib.AbstractContextManager[None]:
        """Around forward and backward: gradient checkpointing attends in the backward pass too."""
        if self.pair_layout == "padded":
            return contextlib.nullcontext()
        return attends_to_trees(bare_model(model))
