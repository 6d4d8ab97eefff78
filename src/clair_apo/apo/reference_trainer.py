"""Between the trainer of rows and ours: the reference of every pair is known before it is met."""

# mypy: allow-untyped-calls
# trl is typed in part only

from collections.abc import Mapping
from typing import Any, cast

from datasets import Dataset, IterableDataset
from transformers import TrainerCallback
from transformers.trainer import Trainer

from clair_apo.apo.checks import check_head
from clair_apo.apo.forward.row_runner import RowTrainer
from clair_apo.apo.reference.cache import ReferenceCache, is_spread
from clair_apo.apo.reference.logprobs import why_policy_moved
from clair_apo.errors import TrainingError


class ReferenceTrainer(RowTrainer):
    """Takes the reference from a cache where the data has a length."""

    reference_cache: ReferenceCache

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Know the reference of every pair; batches look it up, the data set stays as it is."""
        check_head(self.model)
        self.settle_layout(None if is_spread(self) else self.model)
        self.reference_cache.add(dataset, name, batch_size)
        return dataset

    def evaluate(
        self,
        eval_dataset: Dataset | IterableDataset | Mapping[str, Any] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As TRL's, but new data can be evaluated after training where the cache knows it."""
        if not self.precompute_ref_logps or isinstance(eval_dataset, str | None):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if isinstance(eval_dataset, Mapping):
            metrics: dict[str, float] = {}
            for name, part in eval_dataset.items():
                metrics |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        args, tokenizer = self.args, cast(Any, self.processing_class)
        ready = self._prepare_dataset(eval_dataset, tokenizer, args, "eval")
        size = args.precompute_ref_batch_size or args.per_device_eval_batch_size
        ready = self._precompute_ref_logps(ready, "eval", size)
        return Trainer.evaluate(self, ready, ignore_keys, metric_key_prefix)


class AskPolicyAtStart(TrainerCallback):
    """When training begins, the policy is asked as its own reference, or found to be none.

    Under FSDP and DeepSpeed it answers what no cache had, now that it has been spread.

    Args:
        trainer: an `APOTrainer`.
        of_policy: whether there is no other reference model.
    """

    def __init__(self, trainer: Any, of_policy: bool) -> None:
        self._trainer = trainer
        self._of_policy = of_policy

    def on_init_end(self, *event: Any, **more: Any) -> None:
        """Keep TRL from loading a second model by name, as it does under FSDP alone."""
        if self._trainer.args.precompute_ref_log_probs and self._of_policy:
            self._trainer.is_fsdp_enabled = False

    def on_train_begin(self, *event: Any, **more: Any) -> None:
        """Settle the layout; compute what no cache had, or see that the policy stays its reference.

        Raises:
            TrainingError: it would not.
        """
        trainer = self._trainer
        trainer.settle_layout(trainer.model_wrapped)
        if trainer.precompute_ref_logps:
            trainer.reference_cache.complete()
        elif trainer.ref_model is None and (why := why_policy_moved(trainer)):
            raise TrainingError(
                f"{why}, so without the adapter the policy is not its reference: freeze them, set "
                "precompute_ref_log_probs, or pass ref_model"
            )
