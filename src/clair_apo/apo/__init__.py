"""Anchored training on preference pairs.

The data goes one way through this room:

    adapters     a trained adapter from a folder, as the policy
    data         pairs from a file, a folder or the hub, split into trained and held out
    trainer      tokens in padded batches; `config` holds its settings
    row_trainer  a batch cut into rows, and a mean over the pairs of a step
    support      whether pairs may share their beginning
    layout       pairs as trees, packed into a row
    attention    what a token of a tree sees; `head`: logits in tiles, where there is a label
    cpu_attention, float32_products, held_memory   faster where there is no GPU
    shared_prefix, logps   what the policy says of both answers of a pair, in either layout
    reference    what the reference says of them: `reference_choice` (which one it is),
                 `reference_cache` (found or computed), `reference_store` (on disk, by content),
                 `reference_identity`, `model_function` and `users_code` (digests),
                 `reference_files` (info, verify), `reference_command` (build)
    objectives   the loss of each pair, from its two log-ratios
                 and their weighted sum, which a run minimises
    anchors      where winner and loser stand: rewards, quadrants, KL (`outcome_log` keeps them)
    alarms       what contradicts the objective, in words
    invariants   what must hold before the first step means anything (`start` looks at it)
    noise        what makes training mode random, and what ends it
    failures     the pairs of a loss that is no number, and of a batch too large
    dry_run      a run before it costs anything: `lengths`, `estimate`, `dry_run_text`
    unpaired     pairs taken apart, for TRL's KTO trainer
    checkpoints  whole or torn, and the last one that is whole
    run_record   what a run was told and what it used, from its first step on
    average      the mean of checkpoints, or of a model and an earlier one
    interrupt    Ctrl+C saves before it stops
    train        all of it, from a YAML file (`arguments`) to a checkpoint (`facts` and `card`
                 describe it)

Importing it loads torch only when something is used, and TRL only for the trainer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clair_apo.apo.alarms import Alarm as Alarm
    from clair_apo.apo.alarms import find_alarms as find_alarms
    from clair_apo.apo.config import APOConfig as APOConfig
    from clair_apo.apo.data import TrainingPair as TrainingPair
    from clair_apo.apo.data import load_pairs as load_pairs
    from clair_apo.apo.data import split_pairs as split_pairs
    from clair_apo.apo.metrics import PairRewards as PairRewards
    from clair_apo.apo.metrics import RewardIntervals as RewardIntervals
    from clair_apo.apo.objectives import apo_down_loss as apo_down_loss
    from clair_apo.apo.objectives import apo_zero_loss as apo_zero_loss
    from clair_apo.apo.objectives import apo_zero_unpaired_loss as apo_zero_unpaired_loss
    from clair_apo.apo.objectives import dpo_loss as dpo_loss
    from clair_apo.apo.objectives import sft_loss as sft_loss
    from clair_apo.apo.trainer import APOTrainer as APOTrainer
    from clair_apo.apo.unpaired import unpaired_rows as unpaired_rows

_HOME = {
    "APOConfig": "config",
    "APOTrainer": "trainer",
    "Alarm": "alarms",
    "PairRewards": "metrics",
    "RewardIntervals": "metrics",
    "TrainingPair": "data",
    "apo_down_loss": "objectives",
    "apo_zero_loss": "objectives",
    "apo_zero_unpaired_loss": "objectives",
    "dpo_loss": "objectives",
    "find_alarms": "alarms",
    "load_pairs": "data",
    "sft_loss": "objectives",
    "split_pairs": "data",
    "unpaired_rows": "unpaired",
}

__all__ = [
    "APOConfig",
    "APOTrainer",
    "Alarm",
    "PairRewards",
    "RewardIntervals",
    "TrainingPair",
    "apo_down_loss",
    "apo_zero_loss",
    "apo_zero_unpaired_loss",
    "dpo_loss",
    "find_alarms",
    "load_pairs",
    "sft_loss",
    "split_pairs",
    "unpaired_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
