"""How far the answers in the store carry a prompt through its stages; nothing is asked."""

from dataclasses import dataclass, field
from typing import NamedTuple, cast

from clair_apo.clair.prompt_state import PromptState, StageOutput, extended
from clair_apo.clair.stages.run import VERIFY, Stages
from clair_apo.llm import Answer, ChatRequest, Dialogue, RequestStore
from clair_apo.records import PreferencePair, Prompt


class Asked(NamedTuple):
    """An answer that a prompt had, and the stage that asked for it."""

    stage: str
    answer: Answer


@dataclass
class Replay:
    """What became of a prompt by the answers that are there."""

    case: PromptState
    """With all that the stages which ended made of it."""
    answers: list[Asked] = field(default_factory=list)
    """The answers it had."""
    missing: tuple[ChatRequest, ...] = ()
    """What it would ask next; empty where it came to its end."""
    stage: str = ""
    """The stage that would ask."""


def follow(prompt: Prompt, stages: Stages, store: RequestStore) -> Replay:
    """Walk a prompt through the dialogues of its recipe as far as stored answers go."""
    trail = Replay(PromptState(prompt))
    for name in stages.names:
        dialogue = _next_dialogue(trail, name, stages)
        made = _carry(trail, name, dialogue, store) if dialogue else None
        if made is None or made.dropped:
            break
        if name != VERIFY:
            trail.case = extended(trail.case, name, made.rows)
    return trail


def _next_dialogue(trail: Replay, name: str, stages: Stages) -> Dialogue[StageOutput] | None:
    """What the case says in a stage; None where it was dropped on the way there."""
    if name != VERIFY:
        return stages.dialogue(name, trail.case)
    pair = stages.pair(trail.case)
    return None if pair.dropped else stages.verification(cast(PreferencePair, pair.rows[0]))


def _carry(
    trail: Replay, name: str, dialogue: Dialogue[StageOutput], store: RequestStore
) -> StageOutput | None:
    """Answer a dialogue from the store; None where the store does not know all that it asks."""
    trail.stage = name
    try:
        requests = next(dialogue)
        while True:
            found = {r.key: answer for r in requests if (answer := store.answer(r))}
            trail.answers += [Asked(name, answer) for answer in found.values()]
            unique = {r.key: r for r in requests}
            trail.missing = tuple(r for key, r in unique.items() if key not in found)
            if trail.missing:
                return None
            requests = dialogue.send(tuple(found[r.key] for r in requests))
    except StopIteration as end:
        return cast(StageOutput, end.value)
