"""Loads what an evaluation is about: held-out prompts, or held-out pairs with their prompts."""

from collections.abc import Iterable
from typing import NamedTuple

from clair_apo.apo.data import load_split_pairs
from clair_apo.clair import PromptsConfig, load_prompts, measure_contrast
from clair_apo.errors import DataError
from clair_apo.evaluation.config import EvaluateConfig, PairsConfig
from clair_apo.ingest.pairs import TrainingPair, load_pairs
from clair_apo.records import (
    Conversation,
    Message,
    Origin,
    PreferencePair,
    Prompt,
    Provenance,
    prompt_id,
)


class HeldOut(NamedTuple):
    """Prompts, each once, and the pairs that they are from."""

    prompts: tuple[Prompt, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()


def load_held_out(config: EvaluateConfig) -> HeldOut:
    """Load the prompts or pairs of an evaluation.

    Raises:
        DataError: they cannot be read, or none is left.
    """
    if config.prompts is not None:
        return HeldOut(_prompts(config.prompts))
    if config.pairs is None:
        return HeldOut()
    pairs = tuple(_pairs(config.pairs))
    return HeldOut(tuple({pair.id: _prompt_of(pair) for pair in pairs}.values()), pairs)


def _prompts(config: PromptsConfig) -> tuple[Prompt, ...]:
    rows = list(load_prompts(config))
    found = tuple(row for row in rows if isinstance(row, Prompt))
    if not found:
        raise DataError(
            f"{config.path}: no prompt is left of {len(rows)}: each repeats another one or shares "
            "a passage with a test set"
        )
    return found


def _pairs(config: PairsConfig) -> Iterable[PreferencePair]:
    if config.held_out == 1:
        found: Iterable[TrainingPair] = load_pairs(config.path, config.split)
        where = config.path
    else:
        split = load_split_pairs(config.path, config.split, config.held_out)
        found, where = split.held_out, config.path
        if not found:
            raise DataError(f"{config.path}: no pair is held out ({split.rule})")
    return [_as_preference_pair(pair, where) for pair in found]


def _as_preference_pair(pair: TrainingPair, source: str) -> PreferencePair:
    chosen, rejected = _turns(pair.chosen, "assistant"), _turns(pair.rejected, "assistant")
    prompt = _turns(pair.prompt, "user")
    origin = Origin(kind="given", model="given")
    return PreferencePair(
        id=prompt_id(prompt),
        recipe="given",
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        rationale="",
        contrast=measure_contrast(chosen=_text(chosen), rejected=_text(rejected)),
        provenance=Provenance(source=source, chosen=origin, rejected=origin),
    )


def _turns(side: str | Conversation, role: str) -> Conversation:
    if not isinstance(side, str):
        return side
    return (Message.model_validate({"role": role, "content": side}),)


def _text(answer: Conversation) -> str:
    return "\n\n".join(turn.content for turn in answer)


def _prompt_of(pair: PreferencePair) -> Prompt:
    return Prompt(id=pair.id, messages=pair.prompt, source=pair.provenance.source)
