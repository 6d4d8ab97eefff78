"""The model card: what was trained on what, with which objective and why, and how far it moved."""

from typing import Any

import yaml

from clair_apo.apo.metrics import PairRewards
from clair_apo.apo.run_summary import RunFacts, describe_data, run_facts
from clair_apo.run_folder import package_versions

_PAPER = "https://arxiv.org/abs/2408.06266"


def model_card(trainer: Any, name: str, tags: list[str]) -> str:
    """The text of a `README.md`.

    Args:
        trainer: an `APOTrainer`.
        name: of the model, for the title.
        tags: beside our own.
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
        "Pair layout": found.pair_layout,
        "Steps": f"{trainer.state.global_step}",
        "Learning rate": str(found.learning_rates or f"{trainer.args.learning_rate:g}, not used"),
        "Changed on the way": "; ".join(found.changes) or "nothing",
        "Versions": ", ".join(f"{k} {v}" for k, v in package_versions().items()),
    }
    why = "\n".join(found.why) or "An objective of TRL's."
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return (
        f"---\n{_front_matter(trainer, tags)}---\n\n# {name}\n\n"
        f"Trained with [anchored preference optimization]({_PAPER}) by clair-apo.\n\n"
        f"| | |\n|---|---|\n{rows}\n\n"
        f"{why}\n\n"
        f"## Held-out rewards\n\n{_rewards(trainer.evaluation_rewards)}\n"
        f"## Anchors at the end\n\n{_anchors(found)}\n"
        f"## Alarms\n\n{_alarms(found)}"
    )


def _front_matter(trainer: Any, tags: list[str]) -> str:
    adapter = hasattr(trainer.model, "peft_config")
    front = {
        "library_name": "peft" if adapter else "transformers",
        "tags": ["clair-apo", "apo", "trl", *tags],
    }
    return yaml.safe_dump(front, sort_keys=False)


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
        f"{lengths.truncated_chosen} winners and {lengths.truncated_rejected} losers of "
        f"{lengths.pairs} pairs, {lengths.cut_tokens} tokens"
    )


def _rewards(rewards: PairRewards | None) -> str:
    if rewards is None:
        return "None measured.\n"
    found = rewards.intervals()
    return (
        "beta times the log-ratio of policy and reference, as the objective sees it; mean over "
        "pairs with its 95 % interval.\n\n| winner | loser | margin |\n|---|---|---|\n"
        f"| {found.winner} | {found.loser} | {found.margin} |\n"
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
