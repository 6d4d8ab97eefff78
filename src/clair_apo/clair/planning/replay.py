"""Takes a prompt through its stages with the answers of the store alone; nothing is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from clair_apo.clair.prompt_state import PromptState, StageOutput
from clair_apo.clair.stages.context import StageContext
from clair_apo.clair.stages.table import StageDef
from clair_apo.llm import Answer, ChatRequest, Dialogue, RequestStore
from clair_apo.records import Prompt


class Asked(NamedTuple):
    """An answer that a prompt had, and the stage that asked for it."""

    stage: StageDef
    answer: Answer


@dataclass
class Replay:
    """How far the stored answers take a prompt."""

    state: PromptState
    """With the results of the stages that have ended."""
    answers: list[Asked] = field(default_factory=list)
    """The answers it had."""
    missing: tuple[ChatRequest, ...] = ()
    """What it would ask next; empty where it came to its end."""
    waiting: tuple[StageDef, ...] = ()
    """The stage that it is in, and those after it."""


def replay(
    prompt: Prompt, stages: Sequence[StageDef], context: StageContext, store: RequestStore
) -> Replay:
    """Take a prompt through the stages of its run as far as stored answers go."""
    found = Replay(PromptState(prompt))
    for number, stage in enumerate(stages):
        found.waiting = tuple(stages[number:])
        output = _answered(found, stage, stage.run(found.state, context), store)
        if output is None or output.dropped:
            break
        found.state = found.state.with_rows(stage.output, output.rows)
    return found


def _answered(
    found: Replay, stage: StageDef, dialogue: Dialogue[StageOutput], store: RequestStore
) -> StageOutput | None:
    """Answer a dialogue from the store; None where the store does not know all that it asks."""
    try:
        requests = next(dialogue)
        while True:
            known = {r.key: answer for r in requests if (answer := store.answer(r))}
            found.answers += [Asked(stage, answer) for answer in known.values()]
            unique = {r.key: r for r in requests}
            found.missing = tuple(r for key, r in unique.items() if key not in known)
            if found.missing:
                return None
            requests = dialogue.send(tuple(known[r.key] for r in requests))
    except StopIteration as end:
        return cast(StageOutput, end.value)
