"""What a run was, in facts: for its model card, its manifest and the report that is drawn of it."""

# mypy: allow-untyped-calls
# datasets is typed in part only

import hashlib
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from clair_apo.apo.alarms import Alarm
from clair_apo.apo.forward.shared_prefix import bare_model
from clair_apo.apo.lengths import PairLengths, pair_lengths
from clair_apo.apo.objectives import SFT
from clair_apo.apo.reference.choose import BASE, INITIAL
from clair_apo.apo.run_record import LearningRates, record_of
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


_TOKENS = ["prompt_ids", "chosen_ids", "rejected_ids"]


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
    """`the initial policy`, `the model without its adapter`, the model that `reference` names, or
    the `ref_model` that was passed."""
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
    learning_rates: LearningRates | None
    """Those that steps had; None before the first."""
    changes: tuple[str, ...]
    """Settings that a resumed run changed, each with its step, in words."""


def run_facts(trainer: Any) -> RunFacts:
    """Gather the facts.

    Args:
        trainer: an `APOTrainer`, before, during or after training.
    """
    template = getattr(trainer.processing_class, "chat_template", None)
    history, record = trainer.state.log_history, record_of(trainer.state)
    unknown = [f"not known before step {record.began_at}"] if record and record.began_at else []
    return RunFacts(
        objective=_objective(trainer),
        why=tuple(WHY[name] for name in trainer.loss_types if name in WHY),
        beta=trainer.beta,
        model=_name_of(trainer.model),
        pair_layout=trainer.pair_layout,
        reference=_reference(trainer),
        reference_digest=trainer.reference_cache.digest,
        template_digest=digest(template) if template else None,
        lengths=trainer.train_lengths,
        anchors=_last(history, "rewards/chosen", ""),
        held_out_anchors=_last(history, "eval_loss", "eval_"),
        alarms=trainer.alarms.alarms,
        learning_rates=record.learning_rates if record else None,
        changes=(*unknown, *map(str, record.changes)) if record else (),
    )


def describe_data(trainer: Any) -> str:
    """Which pairs a trainer has: what it was told of them, else their number and digest.

    Args:
        trainer: an `APOTrainer`; `data_description` comes first where it is not empty.
    """
    if trainer.data_description:
        return str(trainer.data_description)
    pairs = trainer.train_dataset
    if not isinstance(pairs, Dataset):
        return "a stream of pairs"
    found = trainer.train_digest
    return f"{len(pairs)} pairs" + (f", digest {found[:12]}" if found else "")


def tokens_digest(dataset: Any) -> str | None:
    """SHA-256 over the token ids of prepared pairs, in their order; None as for `measure`.

    Args:
        dataset: as the trainer holds it.
    """
    if not _is_prepared(dataset):
        return None
    found = hashlib.sha256()
    for table in dataset.select_columns(_TOKENS).with_format("arrow").iter(batch_size=1000):
        for name in _TOKENS:
            lists = table[name]
            for part in (pc.list_value_length(lists), pc.list_flatten(lists)):
                found.update(part.to_numpy().astype("<i8").tobytes())
    return found.hexdigest()


def measure(dataset: Any, args: Any) -> PairLengths | None:
    """The lengths of a prepared data set; None for a stream, or for data that TRL prepares later.

    Args:
        dataset: as the trainer holds it.
        args: how prompt and answer are cut.
    """
    if not _is_prepared(dataset):
        return None
    return pair_lengths(dataset.select_columns(_TOKENS), args.max_length, args.truncation_mode)


def _is_prepared(dataset: Any) -> bool:
    """Whether all token ids are there; those of pairs with images come batch by batch."""
    return isinstance(dataset, Dataset) and set(_TOKENS) <= set(dataset.column_names)


def _objective(trainer: Any) -> str:
    weighted = zip(trainer.loss_types, trainer.loss_weights, strict=True)
    parts = [name if weight == 1 else f"{weight:g} {name}" for name, weight in weighted]
    normalised = ", length-normalised" if trainer.objective.length_normalize else ""
    return " + ".join(parts) + normalised


def _reference(trainer: Any) -> str:
    asked = getattr(trainer.args, "reference", INITIAL)
    if asked == BASE:
        return "the model without its adapter"
    if trainer.starts_at_reference:
        return "the initial policy"
    return _short(asked) if asked != INITIAL else f"ref_model ({_name_of(trainer.ref_model)})"


def _name_of(model: Any) -> str:
    return _short(str(getattr(bare_model(model).config, "_name_or_path", ""))) or "unnamed"


def _short(path: str) -> str:
    """A folder's last part is enough: where it lay on one machine is no news to a reader."""
    path = path.rstrip("/")
    return path.split("/")[-1] if path.startswith(("/", ".", "~")) else path


def _last(history: list[dict[str, Any]], key: str, prefix: str) -> dict[str, float]:
    nothing: dict[str, Any] = {}
    log = next((entry for entry in reversed(history) if key in entry), nothing)
    return {
        name.removeprefix(prefix): float(value)
        for name, value in log.items()
        if name.startswith(prefix) and ("/" in name or name.removeprefix(prefix) in _SINGLE)
    }


_SINGLE = {"loss", "saturation", "entropy", "mean_token_accuracy", "first_difference"}
