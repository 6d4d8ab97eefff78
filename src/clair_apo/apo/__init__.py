"""Anchored training on preference pairs.

Data flows from top to bottom:

    arguments, config   the settings of a run, from YAML and command line
    adapters            loads a trained adapter as the policy
    data, lengths       pairs from a file, a folder or the hub; how long they are
    dry_run/            checks the pairs and estimates a run before it costs anything
    trainer             `APOTrainer`, a `trl.DPOTrainer` made of the parts below
    forward/            a batch of pairs through a model
        batching        keys, numbers and weights of a batch; cutting it between pairs
        layout          shared beginnings or padding: `layout_choice`, then `layout_check`
        row_runner      a batch in rows, and the mean over the pairs of a step
        tree, shared_prefix, attention, label_logprobs   pairs that share their beginning
        logps           log-probs of both answers, and TRL's padded forward
        cpu, noise      what is faster on a CPU; dropout and random numbers
        operations      counted for a model, and measured of a device
    reference/          the log-probs that rewards are measured against
        choose, model   which model is the reference, and asking it
        cache, logprobs, storage   found on disk or computed once; batches carry them
        fingerprint, model_function, users_code   by which content they are found
        listing         a cache as a table
    objectives          the loss of each pair, from its two log-ratios
    watch/              what one sees of a run beside its rewards
        tokens          the end token, the first difference, and how far decoding follows chosen
        speed           tokens a second, padding, shared tokens, use of the machine
        prompts, generate, answers, policy, trackers   held-out prompts answered while it trains
    metrics, alarms     rewards, quadrants, KL; warnings where they contradict the objective
    checks              pairs, adapters and the first step
    error_context       errors with the pairs and settings that caused them
    checkpoints         complete ones, resuming, Ctrl+C
    run_record, run_summary   what a run was set to and did; manifest and model card
    train, build_reference    what the commands call
    average             the mean of checkpoints, or of a model and an earlier one
    unpaired            pairs taken apart, for TRL's KTO trainer
    process_exit        ends a process that several libraries may hang in
    trl_compat          every undocumented part of other libraries that is used

Importing it loads torch only when something is used, and TRL only for what trains.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clair_apo.apo.alarms import Alarm as Alarm
    from clair_apo.apo.alarms import find_alarms as find_alarms
    from clair_apo.apo.config import APOConfig as APOConfig
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
    from clair_apo.ingest.pairs import TrainingPair as TrainingPair
    from clair_apo.ingest.pairs import load_pairs as load_pairs

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
