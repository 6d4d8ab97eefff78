"""What a run was, in facts: for its model card, its manifest and the report that is drawn of it."""

from typing import Any

from datasets import Dataset

from clair_apo.apo.alarms import Alarm
from clair_apo.apo.lengths import PairLengths, pair_lengths
from clair_apo.apo.objectives import SFT
from clair_apo.records import Record, digest

WHY = {
    "apo_zero": "apo_zero raises the winners and lowers the losers, each against the reference: "
    "for winners that are better than the model's own answers.",
    "apo_down": "apo_down lowers both answers, the loser further: for winners that are worse than "
    "the model's own answers. It has no floor.",
    "sigmoid": "sigmoid is DPO: it widens the margin and leaves open which way the answers move.",
    SFT: "sft keeps the winners likely; it knows no reference.",
}
"""Each objective in a sentence, and what it is for."""


class RunFacts(Record):
    """A training run as far as its trainer knows it."""

    objective: str
    """Such as `apo_zero + 0.1 sft, length-normalised`."""
    why: tuple[str, ...]
    """A sentence for each objective that is ours."""
    beta: float
    model: str
    pair_layout: str
    reference: str
    reference_digest: str | None
    """Of weights, tokenizer and dtype; None where log-probs were not taken from the cache."""
    template_digest: str | None
    """SHA-256 of the chat template; None without one."""
    lengths: PairLengths | None
    """Of the pairs trained on, with what was truncated; None for a stream."""
    anchors: dict[str, float]
    """The last training log."""
    held_out_anchors: dict[str, float]
    """The last evaluation, without `eval_`."""
    alarms: tuple[Alarm, ...]


def run_facts(trainer: Any) -> RunFacts:
    """Gather the facts.

    Args:
        trainer: an `APOTrainer`, before, during or after training.
    """
    template = getattr(trainer.processing_class, "chat_template", None)
    history = trainer.state.log_history
    return RunFacts(
        objective=_objective(trainer),
        why=tuple(WHY[name] for name in trainer.loss_types if name in WHY),
        beta=trainer.beta,
        model=_base(trainer),
        pair_layout=trainer.pair_layout,
        reference="the initial policy" if trainer.starts_at_reference else "another model",
        reference_digest=trainer.reference_cache.digest,
        template_digest=digest(template) if template else None,
        lengths=trainer.train_lengths,
        anchors=_last(history, "rewards/chosen", ""),
        held_out_anchors=_last(history, "eval_loss", "eval_"),
        alarms=trainer.alarms.alarms,
    )


def measure(dataset: Any, args: Any) -> PairLengths | None:
    """The lengths of a prepared data set; None for a stream, or for data that TRL prepares later.

    Args:
        dataset: as the trainer holds it.
        args: how prompt and answer are cut.
    """
    columns = ["prompt_ids", "chosen_ids", "rejected_ids"]
    if not isinstance(dataset, Dataset) or not set(columns) <= set(dataset.column_names):
        return None
    return pair_lengths(dataset.select_columns(columns), args.max_length, args.truncation_mode)


def _objective(trainer: Any) -> str:
    weighted = zip(trainer.loss_types, trainer.loss_weights, strict=True)
    parts = [name if weight == 1 else f"{weight:g} {name}" for name, weight in weighted]
    normalised = ", length-normalised" if trainer.objective.length_normalize else ""
    return " + ".join(parts) + normalised


def _base(trainer: Any) -> str:
    path = str(getattr(trainer.model.config, "_name_or_path", "")).rstrip("/")
    # a folder's last part is enough: where it lay on one machine is no news to a reader
    return (path.split("/")[-1] if path.startswith(("/", ".")) else path) or "unnamed"


def _last(history: list[dict[str, Any]], key: str, prefix: str) -> dict[str, float]:
    nothing: dict[str, Any] = {}
    log = next((entry for entry in reversed(history) if key in entry), nothing)
    return {
        name.removeprefix(prefix): float(value)
        for name, value in log.items()
        if name.startswith(prefix) and ("/" in name or name.removeprefix(prefix) in _SINGLE)
    }


_SINGLE = {"loss", "saturation", "entropy", "mean_token_accuracy", "first_difference"}
