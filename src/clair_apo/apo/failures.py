"""What stops a run in the middle, said with the pairs and the settings that it is about.

A loss that is not a number, and a batch that does not fit into memory. `NumberedPairs` lets every
batch say which rows of the data set it holds. B is the number of pairs.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig

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


def check_finite(
    losses: Tensor, rows: Tensor, *, step: int, name_of: Callable[[int], str], model: Any
) -> None:
    """Refuse a batch with a loss that is NaN or infinite, before it reaches the weights.

    Args:
        losses: of the pairs of all processes, (B,), the same everywhere, so that all stop.
        rows: their numbers, (B,).
        step: optimizer steps done so far.
        name_of: a pair's name by its number.
        model: the policy; looked at only where something is wrong.

    Raises:
        TrainingError: names the pairs.
    """
    wrong = ~losses.isfinite()
    if not wrong.any():
        return
    found = list(zip(rows[wrong].tolist(), losses[wrong].tolist(), strict=True))
    named = ", ".join(f"{name_of(int(row))} ({loss})" for row, loss in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    raise TrainingError(
        f"after step {step}: the loss of {len(found)} of {len(losses)} pairs is not finite: "
        f"{named}{more}. {_cause(model)}"
    )


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


@contextlib.contextmanager
def named_memory_failure(
    batch: Mapping[str, Any],
    args: DPOConfig,
    *,
    step: int,
    size: int,
    name_of: Callable[[int], str],
) -> Iterator[None]:
    """Say which batch ran out of memory, and what to lower.

    Args:
        batch: the one that is computed in the block.
        args: its settings are named in the message.
        step: optimizer steps done so far.
        size: pairs a batch may have here: in training another number than in evaluation.
        name_of: a pair's name by its number.

    Raises:
        TrainingError: instead of what torch raises.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        rows = batch[ROWS].tolist() if ROWS in batch else []
        names = ", ".join(map(name_of, rows[:MOST_NAMED])) or "unknown"
        raise TrainingError(
            f"after step {step}: out of memory in a batch of {_size(batch, rows)}: {names}. "
            f"{'; '.join(_remedies(args, size))}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an accelerator or the machine has no memory left."""
    # on CPU torch raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _size(batch: Mapping[str, Any], rows: Sequence[int]) -> str:
    ids = batch.get("input_ids")
    shape = "" if ids is None else f", token ids of {' x '.join(map(str, ids.shape))}"
    return f"{len(rows) or 'unknown'} pairs{shape}"


def _remedies(args: DPOConfig, size: int) -> list[str]:
    found = []
    tokens = getattr(args, "max_tokens_per_batch", None)
    if tokens:
        found.append(f"lower max_tokens_per_batch ({tokens})")
    if size > 1:
        found.append(
            f"lower the batch size ({size}) and raise gradient_accumulation_steps "
            f"({args.gradient_accumulation_steps}) by as much: the training is the same"
        )
    if not args.gradient_checkpointing:
        found.append("set gradient_checkpointing true")
    if args.max_length is not None:
        found.append(f"lower max_length ({args.max_length})")
    if not args.precompute_ref_log_probs:
        found.append("set precompute_ref_log_probs true, so that no second model is held")
    return found or ["train an adapter (use_peft), or spread the weights (FSDP)"]
