"""Summarises a training run for its model card, its manifest and its report."""

import hashlib
import re
from typing import Any, Protocol

import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub import EvalResult, ModelCardData

from clair_apo.apo.alarms import Alarm, AlarmCallback
from clair_apo.apo.config import BASE, INITIAL
from clair_apo.apo.forward.batching import is_weighted
from clair_apo.apo.forward.layout import LayoutProof, PairLayout
from clair_apo.apo.forward.shared_prefix import model_name, short_name
from clair_apo.apo.lengths import PairLengths, pair_lengths
from clair_apo.apo.metrics import PairRewards
from clair_apo.apo.objectives import SFT, Objective
from clair_apo.apo.reference.cache import ReferenceCache
from clair_apo.apo.run_record import LearningRates, record_of
from clair_apo.apo.watch.answers import watched_words
from clair_apo.models import find_publication, is_hub_name
from clair_apo.records import Record, digest
from clair_apo.run_folder import package_versions

WHY = {
    "apo_zero": "apo_zero raises the chosen answers and lowers the rejected ones, each against the "
    "reference: for chosen answers that are better than the model's own answers.",
    "apo_down": "apo_down lowers both answers, the rejected one further: for chosen answers that "
    "are worse than the model's own answers. It has no floor.",
    "sigmoid": "sigmoid is DPO: it widens the margin and leaves open which way the answers move.",
    SFT: "sft keeps the chosen answers likely; it knows no reference.",
}
"""Each objective in a sentence, and what it is for."""


_TOKENS = ["prompt_ids", "chosen_ids", "rejected_ids"]

_OF_THE_MACHINE = "speed/"
"""How the names of metrics begin that say nothing about the model."""
_SINGLE = {"loss", "saturation", "entropy", "mean_token_accuracy", "first_difference"}
_LOCAL_FOLDER = re.compile(r"(?<![\w.])(/[\w.+@-]+)+/")
"""A folder in the words of an error: where it lay matters to no reader of a card."""
_PAPER = "https://arxiv.org/abs/2408.06266"


class Run(Protocol):
    """A trainer, as far as its summary reads it; an `APOTrainer` is one."""

    args: Any
    state: Any
    processing_class: Any
    model: Any
    ref_model: Any
    train_dataset: Any
    loss_types: Any
    loss_weights: Any
    beta: Any
    objective: Objective
    alarms: AlarmCallback
    starts_at_reference: bool
    reference_cache: ReferenceCache
    evaluation_rewards: PairRewards | None
    layout: PairLayout
    advice_reason: str
    """Why an advice chose the objective; empty where none did."""
    data_description: str
    """What the pairs are, in words; empty where nobody said so."""

    @property
    def pair_layout(self) -> str:
        """`shared_prefix`, `sequences` or `padded`."""

    @property
    def train_lengths(self) -> PairLengths | None:
        """Of the pairs trained on."""

    @property
    def train_digest(self) -> str | None:
        """Of the pairs trained on."""


class RunFacts(Record):
    """The facts of a training run that its trainer knows."""

    objective: str
    """Such as `apo_zero + 0.1 sft, length-normalised`."""
    why: tuple[str, ...]
    """A sentence for each objective that is ours, and why an advice chose it where one did."""
    beta: float
    model: str
    pair_layout: str
    layout: LayoutProof
    """The way that pairs took through the models, and what was compared to know that it may."""
    reference: str
    """`the initial policy`, `the model without its adapter`, the model that `reference` names, or
    the `ref_model` that was passed."""
    reference_digest: str | None
    """Of weights, tokenizer and dtype; None where log-probs were not taken from the cache."""
    reference_computed: int
    """Pairs whose reference this process computed; the cache had those of the others."""
    template_digest: str | None
    """SHA-256 of the chat template; None without one."""
    lengths: PairLengths | None
    """Of the pairs trained on, with what was truncated; None for a stream."""
    anchors: dict[str, float]
    """The last training log."""
    held_out_anchors: dict[str, float]
    """The last evaluation, without `eval_`."""
    watched: str
    """The first and the last figures of watched answers, in words; empty where there are none."""
    alarms: tuple[Alarm, ...]
    learning_rates: LearningRates | None
    """Those that steps had; None before the first."""
    changes: tuple[str, ...]
    """Settings that a resumed run changed, each with its step, in words."""


def run_facts(trainer: Run) -> RunFacts:
    """Gather the facts of a run.

    Args:
        trainer: an `APOTrainer`, before, during or after training.
    """
    template = getattr(trainer.processing_class, "chat_template", None)
    history, record = trainer.state.log_history, record_of(trainer.state)
    unknown = [f"not known before step {record.began_at}"] if record and record.began_at else []
    return RunFacts(
        objective=_objective(trainer),
        why=_why(trainer),
        beta=trainer.beta,
        model=model_name(trainer.model) or "unnamed",
        pair_layout=trainer.pair_layout,
        layout=trainer.layout.proof,
        reference=_reference(trainer),
        reference_digest=trainer.reference_cache.digest,
        reference_computed=len(trainer.reference_cache.computed),
        template_digest=digest(template) if template else None,
        lengths=trainer.train_lengths,
        anchors=_last(history, "rewards/chosen", ""),
        held_out_anchors=_last(history, "eval_loss", "eval_"),
        watched=watched_words(history),
        alarms=trainer.alarms.alarms,
        learning_rates=record.learning_rates if record else None,
        changes=(*unknown, *map(str, record.changes)) if record else (),
    )


def describe_data(trainer: Run) -> str:
    """Describe the pairs of a trainer: by `data_description`, else by number and digest.

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


def _why(trainer: Run) -> tuple[str, ...]:
    advised = trainer.advice_reason and f"Chosen by clair-apo advise: {trainer.advice_reason}."
    return (*(WHY[name] for name in trainer.loss_types if name in WHY), *filter(None, [advised]))


def _objective(trainer: Run) -> str:
    mixed = zip(trainer.loss_types, trainer.loss_weights, strict=True)
    parts = [name if weight == 1 else f"{weight:g} {name}" for name, weight in mixed]
    objective = trainer.objective
    normalised = ", length-normalised" if objective.length_normalize else ""
    smoothing = objective.label_smoothing
    smoothed = f", label smoothing {smoothing:g}" if smoothing else ""
    weighted = ", pairs weighted by the data" if is_weighted(trainer.train_dataset) else ""
    return " + ".join(parts) + normalised + smoothed + weighted


def _reference(trainer: Run) -> str:
    asked = trainer.args.reference
    if asked == BASE:
        return "the model without its adapter"
    if trainer.starts_at_reference:
        return "the initial policy"
    if asked != INITIAL:
        return short_name(asked)
    return f"ref_model ({model_name(trainer.ref_model) or 'unnamed'})"


def _last(history: list[dict[str, Any]], key: str, prefix: str) -> dict[str, float]:
    nothing: dict[str, Any] = {}
    log = next((entry for entry in reversed(history) if key in entry), nothing)
    return {
        name.removeprefix(prefix): float(value)
        for name, value in log.items()
        if name.startswith(prefix)
        and ("/" in name or name.removeprefix(prefix) in _SINGLE)
        and not name.startswith(_OF_THE_MACHINE)
    }


def model_card(trainer: Run, name: str, tags: list[str], dataset: str | None = None) -> str:
    """The text of a `README.md`.

    Args:
        trainer: an `APOTrainer`.
        name: of the model, for the title.
        tags: beside our own.
        dataset: where the pairs came from; the hub is told of one that it has.
    """
    found = run_facts(trainer)
    facts = {
        "Base model": found.model,
        "Objective": found.objective,
        "beta": f"{found.beta:g}",
        "Reference": _with_digest(found.reference, found.reference_digest),
        "Chat template": _with_digest("", found.template_digest) or "none",
        "Data": describe_data(trainer),
        "Truncated": _truncated(found),
        "Pair layout": _LOCAL_FOLDER.sub("", str(found.layout)).replace("|", "/"),
        "Steps": f"{trainer.state.global_step}",
        "Learning rate": str(found.learning_rates or f"{trainer.args.learning_rate:g}, not used"),
        "Changed on the way": "; ".join(found.changes) or "nothing",
        "Versions": ", ".join(f"{k} {v}" for k, v in package_versions().items()),
    }
    why = "\n".join(found.why) or "An objective of TRL's."
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return (
        f"---\n{_front_matter(trainer, name, tags, dataset)}---\n\n# {name}\n\n"
        f"Trained with [anchored preference optimization]({_PAPER}) by clair-apo.\n\n"
        f"| | |\n|---|---|\n{rows}\n\n"
        f"{why}\n\n"
        f"## Held-out rewards\n\n{_rewards(trainer.evaluation_rewards)}\n"
        f"## Anchors at the end\n\n{_anchors(found)}\n"
        f"## Watched answers\n\n{found.watched or 'None.'}\n\n"
        f"## Alarms\n\n{_alarms(found)}"
    )


def _front_matter(trainer: Run, name: str, tags: list[str], dataset: str | None) -> str:
    """What the hub reads of a card; nothing that is not known, and no path of this machine."""
    base = find_publication(trainer.model.config.name_or_path)
    data = ModelCardData(
        model_name=name,
        base_model=base.hub_name,
        license=base.license,
        pipeline_tag="text-generation",
        library_name="peft" if hasattr(trainer.model, "peft_config") else "transformers",
        tags=["clair-apo", "apo", "trl", *tags],
        datasets=[dataset] if dataset and is_hub_name(dataset) else None,
        eval_results=_eval_results(trainer.evaluation_rewards),
    )
    return f"{data.to_yaml()}\n"


def _eval_results(rewards: PairRewards | None) -> list[EvalResult] | None:
    if rewards is None:
        return None
    found = rewards.intervals()
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="preference",
            dataset_name="held-out pairs",
            metric_type=f"rewards/{side}",
            metric_name=f"mean reward, {side} (n={interval.n})",
            metric_value=round(interval.mean, 4),
        )
        for side, interval in found
    ]


def _with_digest(what: str, digest: str | None) -> str:
    return ", ".join(part for part in (what, digest and f"digest {digest[:12]}") if part)


def _truncated(found: RunFacts) -> str:
    lengths = found.lengths
    if lengths is None:
        return "not counted"
    answers = lengths.truncated_chosen + lengths.truncated_rejected
    if not answers:
        return "no answer"
    return (
        f"{lengths.truncated_chosen} chosen and {lengths.truncated_rejected} rejected answers of "
        f"{lengths.pairs} pairs, {lengths.cut_tokens} tokens"
    )


def _rewards(rewards: PairRewards | None) -> str:
    if rewards is None:
        return "None measured.\n"
    found = rewards.intervals()
    return (
        "beta times the log-ratio of policy and reference, as the objective sees it; mean over "
        "pairs with its 95 % interval.\n\n| chosen | rejected | margin |\n|---|---|---|\n"
        f"| {found.chosen} | {found.rejected} | {found.margin} |\n"
    )


def _anchors(found: RunFacts) -> str:
    names = found.anchors or found.held_out_anchors
    if not names:
        return "None logged.\n"
    rows = (
        f"| `{name}` | {_number(found.anchors, name)} | {_number(found.held_out_anchors, name)} |\n"
        for name in names
    )
    return f"| | last training log | held out |\n|---|---|---|\n{''.join(rows)}"


def _number(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.3f}" if name in values else ""


def _alarms(found: RunFacts) -> str:
    return "".join(f"- {alarm}\n" for alarm in found.alarms) or "None.\n"
