"""The model card: what was trained on what, with which objective, and how far it moved."""

from typing import Any

import yaml

from clair_apo.apo.anchors import PairRewards
from clair_apo.runs import package_versions

_PAPER = "https://arxiv.org/abs/2408.06266"


def model_card(trainer: Any, name: str, tags: list[str]) -> str:
    """The text of a `README.md`.

    Args:
        trainer: an `APOTrainer`.
        name: of the model, for the title.
        tags: beside our own.
    """
    facts = {
        "Base model": _base(trainer),
        "Objective": _objective(trainer),
        "beta": f"{trainer.beta:g}",
        "Reference": "the base model" if trainer.starts_at_reference else "another, passed model",
        "Data": trainer.data_description or f"{len(trainer.train_dataset)} pairs",
        "Steps": f"{trainer.state.global_step}, learning rate {trainer.args.learning_rate:g}",
        "Versions": ", ".join(f"{k} {v}" for k, v in package_versions().items()),
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return (
        f"---\n{_front_matter(trainer, tags)}---\n\n# {name}\n\n"
        f"Trained with [anchored preference optimization]({_PAPER}) by clair-apo.\n\n"
        f"| | |\n|---|---|\n{rows}\n\n## Held-out rewards\n\n{_rewards(trainer.evaluation_rewards)}"
    )


def _front_matter(trainer: Any, tags: list[str]) -> str:
    adapter = hasattr(trainer.model, "peft_config")
    front = {
        "library_name": "peft" if adapter else "transformers",
        "tags": ["clair-apo", "apo", "trl", *tags],
    }
    return yaml.safe_dump(front, sort_keys=False)


def _base(trainer: Any) -> str:
    path = str(getattr(trainer.model.config, "_name_or_path", "")).rstrip("/")
    # a folder's last part is enough: where it lay on one machine is no news to a reader
    return (path.split("/")[-1] if path.startswith(("/", ".")) else path) or "unnamed"


def _objective(trainer: Any) -> str:
    weighted = zip(trainer.loss_types, trainer.loss_weights, strict=True)
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in weighted)


def _rewards(rewards: PairRewards | None) -> str:
    if rewards is None:
        return "None measured.\n"
    found = rewards.intervals()
    return (
        "beta times the log-ratio of policy and reference, summed over an answer; mean over pairs "
        "with its 95 % interval.\n\n| winner | loser | margin |\n|---|---|---|\n"
        f"| {found.winner} | {found.loser} | {found.margin} |\n"
    )
