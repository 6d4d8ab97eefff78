"""Anchored training on preference pairs.

The data goes one way through this room:

    data         pairs from a file, a folder or the hub, split into trained and held out
    trainer      tokens in padded batches; `config` holds its settings
    row_trainer  a batch cut into rows, and a mean over the pairs of a step
    support      whether pairs may share their beginning
    layout       pairs as trees, packed into a row
    attention    what a token of a tree sees; `head`: logits in tiles, where there is a label
    shared_prefix, logps   what the policy says of both answers of a pair, in either layout
    reference    what the reference says of them
    objectives   the loss of each pair, from its two log-ratios
    anchors      where winner and loser stand: rewards, quadrants, saturation
    invariants   what must hold before the first step means anything
    interrupt    Ctrl+C saves before it stops
    train        all of it, from a YAML file (`arguments`) to a checkpoint (`card` describes it)

Importing it loads torch only when something is used, and TRL only for the trainer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clair_apo.apo.anchors import PairRewards as PairRewards
    from clair_apo.apo.anchors import RewardIntervals as RewardIntervals
    from clair_apo.apo.config import APOConfig as APOConfig
    from clair_apo.apo.data import TrainingPair as TrainingPair
    from clair_apo.apo.data import load_pairs as load_pairs
    from clair_apo.apo.data import split_pairs as split_pairs
    from clair_apo.apo.objectives import apo_down_loss as apo_down_loss
    from clair_apo.apo.objectives import apo_zero_loss as apo_zero_loss
    from clair_apo.apo.objectives import apo_zero_unpaired_loss as apo_zero_unpaired_loss
    from clair_apo.apo.objectives import dpo_loss as dpo_loss
    from clair_apo.apo.trainer import APOTrainer as APOTrainer

_HOME = {
    "APOConfig": "config",
    "APOTrainer": "trainer",
    "PairRewards": "anchors",
    "RewardIntervals": "anchors",
    "TrainingPair": "data",
    "apo_down_loss": "objectives",
    "apo_zero_loss": "objectives",
    "apo_zero_unpaired_loss": "objectives",
    "dpo_loss": "objectives",
    "load_pairs": "data",
    "split_pairs": "data",
}

__all__ = [
    "APOConfig",
    "APOTrainer",
    "PairRewards",
    "RewardIntervals",
    "TrainingPair",
    "apo_down_loss",
    "apo_zero_loss",
    "apo_zero_unpaired_loss",
    "dpo_loss",
    "load_pairs",
    "split_pairs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
