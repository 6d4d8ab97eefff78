"""Where reference log-probabilities come from: a frozen copy, a switched-off adapter, or memory.

The reference is always the model that was passed, never one reloaded by its name, and what is
precomputed lives in memory with the data set, so nothing stale can be read back.
"""

# mypy: allow-untyped-calls
# trl is typed in part only

import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import tqdm
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.trainer.dpo_trainer import DPOTrainer

from clair_apo.apo.logps import PairLogps
from clair_apo.errors import TrainingError

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


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


def reference_logps(trainer: DPOTrainer, batch: Mapping[str, Tensor]) -> PairLogps:
    """The reference's log-probabilities for a padded batch, without gradient.

    They are read from the batch where they were precomputed, else taken from the reference model,
    else from the policy with its adapter switched off.
    """
    if trainer.precompute_ref_logps:
        return PairLogps(*(batch[column] for column in COLUMNS))
    model = trainer.model if trainer.ref_model is None else trainer.ref_model
    return PairLogps(*trainer.compute_ref_log_probs(model, batch))


def with_reference_logps(
    trainer: DPOTrainer, model: Any, dataset: Dataset, name: str, batch_size: int
) -> Dataset:
    """Add the columns `ref_chosen_logps` and `ref_rejected_logps`, computed now, kept in memory.

    Args:
        trainer: knows how a model is asked.
        model: the reference, on its device.
        dataset: tokenized pairs.
        name: of the data set, for the progress bar.
        batch_size: pairs for each process at a time.
    """
    dataset = dataset.remove_columns([c for c in COLUMNS if c in dataset.column_names])
    accelerator = trainer.accelerator
    loader = accelerator.prepare(
        DataLoader(dataset, batch_size=batch_size, collate_fn=trainer.data_collator)
    )
    found: list[Tensor] = []
    was_training = model.training
    model.eval()
    for batch in tqdm(loader, desc=f"reference log-probs of {name}", leave=False):
        logps = torch.stack(trainer.compute_ref_log_probs(model, batch), dim=1)
        # gathered for metrics: without the pairs that fill the last batch of several processes
        found.append(accelerator.gather_for_metrics(logps).cpu())
    model.train(was_training)
    table = torch.cat(found).tolist()
    for position, column in enumerate(COLUMNS):
        dataset = dataset.add_column(column, [row[position] for row in table])
    return dataset
