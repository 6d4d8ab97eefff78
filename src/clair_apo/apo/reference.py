"""Where reference log-probabilities come from: a frozen copy, a switched-off adapter, or memory.

The reference is always the model that was passed, never one reloaded by its name, and what is
precomputed lives in memory with the data set, so nothing stale can be read back.
"""

# mypy: allow-untyped-calls
# trl is typed in part only

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import tqdm
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from clair_apo.apo.logps import TokenLogps
from clair_apo.apo.row_trainer import RowTrainer
from clair_apo.errors import TrainingError

COLUMNS = ("ref_chosen_token_logps", "ref_rejected_token_logps")
TOKENS = ("ref_token_logps", "ref_lengths")
"""What a batch carries: `TokenLogps` of the winners of all pairs, then of the losers."""


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model as it is now, that no training step reaches.

    Raises:
        TrainingError: the weights are spread by DeepSpeed ZeRO-3 and cannot be copied.
    """
    if is_deepspeed_zero3_enabled():
        raise TrainingError(
            "under DeepSpeed ZeRO-3 a model cannot be copied as its own reference: pass the model "
            "by name, pass ref_model, or set precompute_ref_log_probs"
        )
    reference = copy.deepcopy(model)
    reference.requires_grad_(False)
    reference.eval()
    return reference


def reference_token_logps(
    trainer: RowTrainer, batch: Mapping[str, Tensor], model: Any = None
) -> TokenLogps:
    """The reference's log-probabilities of every scored token, without gradient.

    They are read from the batch where they were precomputed, else taken from the reference model,
    else from the policy with its adapter switched off.

    Args:
        trainer: knows the reference.
        batch: a padded batch of B pairs.
        model: the reference as it is wrapped for this forward; by default the trainer's own.

    Returns:
        Of the winners of all pairs, then of the losers: 2B answers.
    """
    if TOKENS[0] in batch:
        return TokenLogps(*(batch[column] for column in TOKENS))
    if model is None:
        model = trainer.model if trainer.ref_model is None else trainer.ref_model
    forward = trainer.reference_forward(model, batch)
    return TokenLogps(*map(torch.cat, zip(forward.chosen, forward.rejected, strict=True)))


class CollateWithReference:
    """A collator whose batches carry the reference's log-probs of every scored token.

    Args:
        collate: makes the padded batches.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows, and lay the winners' log-probs end to end, then the losers'."""
        batch = dict(self.collate(rows))
        if COLUMNS[0] in rows[0]:
            answers = [torch.tensor(row[column]) for column in COLUMNS for row in rows]
            batch[TOKENS[0]] = torch.cat(answers)
            batch[TOKENS[1]] = torch.tensor([len(answer) for answer in answers])
            sums = torch.stack([answer.sum() for answer in answers]).chunk(2)
            batch["ref_chosen_logps"], batch["ref_rejected_logps"] = sums  # for TRL's losses
        return batch


def with_reference_logps(
    trainer: RowTrainer, model: Any, dataset: Dataset, name: str, batch_size: int
) -> Dataset:
    """Add the columns of `CollateWithReference`, computed now, kept in memory.

    Args:
        trainer: knows how a model is asked.
        model: the reference, on its device.
        dataset: tokenized pairs.
        name: of the data set, for the progress bar.
        batch_size: pairs for each process at a time.
    """
    dataset = dataset.remove_columns([c for c in COLUMNS if c in dataset.column_names])
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=trainer.data_collator)
    found: dict[str, list[list[float]]] = {column: [] for column in COLUMNS}
    was_training = model.training
    model.eval()
    for batch in tqdm(loader, desc=f"reference log-probs of {name}", leave=False):
        batch = {key: value.to(trainer.accelerator.device) for key, value in batch.items()}
        answers = [
            tokens.tolist() for tokens in reference_token_logps(trainer, batch, model).split()
        ]
        half = len(answers) // 2
        found[COLUMNS[0]] += answers[:half]
        found[COLUMNS[1]] += answers[half:]
    model.train(was_training)
    for column, values in found.items():
        dataset = dataset.add_column(column, values)
    return dataset
