"""What stops a run in the middle, said with the pairs and the settings that it is about.

That is a loss that is not a number, or a batch that does not fit into memory. `NumberedPairs` lets
every batch say which rows of the data set it holds. B is the number of pairs.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from clair_apo.apo.anchors import PairOutcomes
from clair_apo.errors import TrainingError

ROW = "row"
"""The column of a prepared data set that numbers its pairs."""
ROWS = "rows"
"""The key of a batch with the numbers of its pairs, (B,), int64; -1 where there is none."""

MOST_NAMED = 8
"""Pairs that an error names at most."""


class NumberedPairs:
    """A collator whose batches say which rows they hold, under `ROWS`.

    Args:
        collate: makes the batches; it is given the rows as they are.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows."""
        numbers = torch.tensor([row.get(ROW, -1) for row in rows])
        return {**self.collate(rows), ROWS: numbers}


def rows_of(batch: Mapping[str, Any]) -> Tensor:
    """Which rows a padded batch holds, (B,); -1 where it was made by another collator."""
    ids = batch["input_ids"]
    return batch.get(ROWS, ids.new_full((len(ids) // 2,), -1))  # type: ignore[no-any-return]


class FailureGuard:
    """Watches a trainer's batches, and names pairs and settings where one fails.

    Args:
        trainer: its data sets give the names, its settings the advice.
    """

    def __init__(self, trainer: Any) -> None:
        self.evaluated: Any = None
        """The data set under evaluation, whose rows the batches number then."""
        self._trainer = trainer

    def check_finite(self, outcomes: PairOutcomes) -> None:
        """Refuse a batch with a loss that is NaN or infinite, before it reaches the weights.

        Args:
            outcomes: of the pairs of all processes, the same in each, so that all of them stop.

        Raises:
            TrainingError: names the pairs.
        """
        losses = outcomes.losses + outcomes.chosen_logps  # the sft term is made of the second
        wrong = ~losses.isfinite()
        if not wrong.any():
            return
        rows = outcomes.rows[wrong].long().tolist()
        raise TrainingError(
            f"after step {self._trainer.state.global_step}: the loss of {len(rows)} of "
            f"{len(losses)} pairs is not finite: {self._names(rows)}. "
            f"{_cause(self._trainer.model)}"
        )

    @contextlib.contextmanager
    def named_memory_failure(self, batch: Mapping[str, Any]) -> Iterator[None]:
        """Say which batch ran out of memory in the block, and what to lower.

        Raises:
            TrainingError: instead of what torch raises.
        """
        rows = rows_of(batch).tolist()
        try:
            yield
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            args, training = self._trainer.args, self._trainer.model.training
            size = args.per_device_train_batch_size if training else args.per_device_eval_batch_size
            shape = " x ".join(map(str, batch["input_ids"].shape))
            raise TrainingError(
                f"after step {self._trainer.state.global_step}: out of memory in a batch of "
                f"{len(rows)} pairs, padded to {shape} tokens: {self._names(rows)}. To try: "
                f"{'; '.join(_remedies(args, size, training))}"
            ) from error

    def _names(self, rows: Sequence[int]) -> str:
        """Pairs by their ids, or by their numbers where the data has none or is a stream."""
        trainer = self._trainer
        pairs = trainer.train_dataset if trainer.model.training else self.evaluated
        known = isinstance(pairs, Dataset) and "id" in pairs.column_names
        names = [str(pairs[row]["id"] if known and row >= 0 else row) for row in rows[:MOST_NAMED]]
        more = f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
        return f"pair{'s' if len(rows) > 1 else ''} {', '.join(names)}{more}"


def _cause(model: Any) -> str:
    if all(weight.isfinite().all() for weight in model.parameters()):
        return (
            "The weights are still finite: look at these pairs, and whether their reference "
            "log-probs are numbers; in float16 or bfloat16 try float32"
        )
    return (
        "The weights themselves are no longer finite, so an earlier step did it, not these pairs: "
        "go back to a checkpoint, lower learning_rate or max_grad_norm, warm up for longer"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an accelerator or the machine has no memory left."""
    # on CPU torch raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _remedies(args: Any, size: int, training: bool) -> list[str]:
    found = []
    tokens = getattr(args, "max_tokens_per_batch", None)
    if tokens:
        found.append(f"lower max_tokens_per_batch ({tokens})")
    if size > 1 and training:
        found.append(
            f"lower per_device_train_batch_size ({size}) and raise gradient_accumulation_steps "
            f"({args.gradient_accumulation_steps}) by as much, which trains the same"
        )
    elif size > 1:
        found.append(f"lower per_device_eval_batch_size ({size})")
    if training and not args.gradient_checkpointing:
        found.append("set gradient_checkpointing true")
    if args.max_length is not None:
        found.append(f"lower max_length ({args.max_length})")
    return [*found, "train an adapter (use_peft)", "spread the weights (FSDP)"]
