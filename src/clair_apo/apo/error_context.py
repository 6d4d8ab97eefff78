"""Errors in the middle of a run, with the pairs and the settings that caused them.

They are a loss that is not finite, and a batch or an optimizer that does not fit into memory.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor

from clair_apo.apo.forward.batching import rows_of
from clair_apo.apo.forward.host import Host
from clair_apo.apo.metrics import PairOutcomes
from clair_apo.errors import TrainingError

MOST_NAMED = 8
"""Pairs that an error names at most."""


class Work(NamedTuple):
    """What a batch is for: its data set, and the setting of its size."""

    pairs: Any
    """The data set whose rows the batch numbers."""
    setting: str
    """The setting that decides how many pairs a batch has."""
    size: int
    """The value of that setting."""
    batch: str = "a batch"
    """What the batch is called."""

    @property
    def is_training(self) -> bool:
        """Whether there is a backward pass."""
        return self.setting == "per_device_train_batch_size"


class FailureGuard:
    """Names the pairs and the settings of a batch that fails.

    Args:
        host: its data set gives the names, its settings the advice.
    """

    def __init__(self, host: Host) -> None:
        self.evaluated: Any = None
        """The data set under evaluation, whose rows the batches number then."""
        self._host = host

    def check_finite(self, outcomes: PairOutcomes) -> None:
        """Refuse a batch with a loss that is NaN or infinite, before it reaches the weights.

        Args:
            outcomes: of the pairs of this process. With several, the one that holds such a pair
                raises, and the launcher ends the others: to ask them all would cost every step.

        Raises:
            TrainingError: names the pairs.
        """
        losses = outcomes.losses + outcomes.chosen_logps  # the sft term is made of the second
        wrong = ~losses.isfinite()
        if not wrong.any():
            return
        rows = outcomes.rows[wrong].long().tolist()
        raise TrainingError(
            f"after step {self._host.state.global_step}: the loss of {len(rows)} of "
            f"{len(losses)} pairs is not finite: {_names(self._work.pairs, rows)}. "
            f"{_cause(self._host.model)}"
        )

    def check_finite_mean(self, loss: Tensor, batch: Mapping[str, Any]) -> None:
        """Refuse a loss of TRL's that is not finite; it is one number for the whole batch.

        Args:
            loss: of this process.
            batch: the pairs that it is of.

        Raises:
            TrainingError: names all pairs of the batch.
        """
        if loss.isfinite().all():
            return
        rows = rows_of(batch).tolist()
        raise TrainingError(
            f"after step {self._host.state.global_step}: the loss of a batch of {len(rows)} "
            f"pairs is not finite: one or more of {_names(self._work.pairs, rows)}. "
            f"{_cause(self._host.model)}"
        )

    def named_memory_failure(
        self, batch: Mapping[str, Any]
    ) -> contextlib.AbstractContextManager[None]:
        """Say which batch of training or evaluation ran out of memory, and what to lower.

        Where `auto_find_batch_size` is set, a batch of training fails with torch's own error:
        accelerate begins anew with fewer pairs, and knows no other.
        """
        if self._work.is_training and self._host.args.auto_find_batch_size:
            return contextlib.nullcontext()
        return named_memory_failure(self._host, batch, self._work)

    @contextlib.contextmanager
    def named_optimizer_failure(self) -> Iterator[None]:
        """Say that memory ran out between batches, where the optimizer keeps its state.

        Raises:
            TrainingError: instead of what torch raises.
        """
        host = self._host
        with _memory_message(
            lambda: (
                f"after step {host.state.global_step}: out of memory outside of any batch; at "
                "the first step that is the optimizer, which keeps its state from then on. To "
                "try: an optim with a smaller state, adafactor for one (now "
                f"{host.args.optim}); {'; '.join(_FEWER_WEIGHTS)}"
            )
        ):
            yield

    @property
    def _work(self) -> Work:
        host, args = self._host, self._host.args
        if host.model.training:
            size = args.per_device_train_batch_size
            return Work(host.train_dataset, "per_device_train_batch_size", size)
        return Work(self.evaluated, "per_device_eval_batch_size", args.per_device_eval_batch_size)


@contextlib.contextmanager
def named_memory_failure(host: Host, batch: Mapping[str, Any], work: Work) -> Iterator[None]:
    """Say which batch ran out of memory in the block, and what to lower.

    Args:
        host: its settings give the advice.
        batch: padded.
        work: what it is made for.

    Raises:
        TrainingError: instead of what torch raises.
    """

    def message() -> str:
        rows = rows_of(batch).tolist()
        shape = " x ".join(map(str, batch["input_ids"].shape))
        return (
            f"after step {host.state.global_step}: out of memory in {work.batch} of "
            f"{len(rows)} pairs, padded to {shape} tokens: {_names(work.pairs, rows)}. To try: "
            f"{'; '.join(_remedies(host.args, work))}"
        )

    with _memory_message(message):
        yield


@contextlib.contextmanager
def _memory_message(message: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not is_out_of_memory(error):
            raise
        raise TrainingError(message()) from error


def _names(pairs: Any, rows: Sequence[int]) -> str:
    """Pairs by their ids, or by their numbers where the data has none or is a stream."""
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


_FEWER_WEIGHTS = ("train an adapter (use_peft)", "spread the weights (FSDP)")


def _remedies(args: Any, work: Work) -> list[str]:
    found = []
    tokens = args.max_tokens_per_batch
    if tokens:
        found.append(f"lower max_tokens_per_batch ({tokens})")
    if work.size > 1 and work.is_training:
        found.append(
            f"lower {work.setting} ({work.size}) and raise gradient_accumulation_steps "
            f"({args.gradient_accumulation_steps}) by as much, which trains the same"
        )
    elif work.size > 1:
        found.append(f"lower {work.setting} ({work.size})")
    if work.is_training and not args.gradient_checkpointing:
        found.append("set gradient_checkpointing true")
    if args.max_length is not None:
        found.append(f"lower max_length ({args.max_length})")
    return [*found, *_FEWER_WEIGHTS]
