"""How far the answers in the store carry a prompt through its stages; nothing is asked."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from clair_apo.clair.case import PARTS, Case, Made
from clair_apo.clair.pairs import make_pair
from clair_apo.clair.stages import Stages
from clair_apo.clair.verify import is_control, verify
from clair_apo.llm import Answer, ChatRequest, Completion, Dialogue, RequestStore
from clair_apo.records import PreferencePair, Prompt


class Asked(NamedTuple):
    """An answer that a prompt had, and the stage that asked for it."""

    stage: str
    answer: Answer


@dataclass
class Trail:
    """What became of a prompt by the answers that are there."""

    case: Case
    """With all that the stages which ended made of it."""
    answers: list[Asked] = field(default_factory=list)
    """The answers it had."""
    missing: tuple[ChatRequest, ...] = ()
    """What it would ask next; empty where it came to its end."""
    stage: str = ""
    """The stage that would ask."""


def follow(prompt: Prompt, stages: Stages, store: RequestStore) -> Trail:
    """Walk a prompt through the dialogues of its recipe as far as stored answers go."""
    trail = Trail(Case(prompt))
    for name in stages.names:
        made = _carry(trail, name, stages.dialogue(name, trail.case), store)
        if made is None or made.dropped:
            return trail
        trail.case = _with_rows(trail.case, name, made)
    if stages.verifies:
        pair = stages.pair(trail.case)
        if pair.dropped is None:
            assert isinstance(pair.rows[0], PreferencePair)
            _carry(trail, "verify", stages.verification(pair.rows[0]), store)
    return trail


def _carry(trail: Trail, name: str, dialogue: Dialogue[Made], store: RequestStore) -> Made | None:
    """Answer a dialogue from the store; None where the store does not know all that it asks."""
    trail.stage = name
    try:
        requests = next(dialogue)
        while True:
            found = {r.key: _stored(r, store) for r in requests}
            trail.answers += [Asked(name, answer) for answer in found.values() if answer]
            unique = {request.key: request for request in requests}
            trail.missing = tuple(r for key, r in unique.items() if found[key] is None)
            if trail.missing:
                return None
            requests = dialogue.send(tuple(found[r.key] for r in requests))
    except StopIteration as end:
        return end.value


def _stored(request: ChatRequest, store: RequestStore) -> Answer | None:
    response = store.get(request.key)
    return Answer(request, Completion.from_response(response)) if response is not None else None


def _with_rows(case: Case, name: str, made: Made) -> Case:
    rows = made.rows
    return replace(case, **{PARTS[name].field: rows if name == "respond" else rows[0]})
