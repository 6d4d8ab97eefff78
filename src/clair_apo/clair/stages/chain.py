"""Makes a chain of pairs of a revision: one for each edit, each between adjacent texts.

Edits are applied one after another, in the order of the text: A0 is the answer, An the revision.
A text that the gate refuses as a side is left out, and the chain goes on without it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rapidfuzz.distance import Postfix, Prefix

from clair_apo.clair.answer_text import trimmed
from clair_apo.clair.prompt_state import PromptState, StageOutput, drop
from clair_apo.clair.recipes import Sides
from clair_apo.clair.revision.placed import apply_placed
from clair_apo.clair.stages.context import StageContext
from clair_apo.clair.stages.pair import pair_of
from clair_apo.llm import Dialogue
from clair_apo.records import ChainStep, DroppedStep, DropReason, Response, Revision, Stage


class _Text(NamedTuple):
    """A text of the chain: the answer with the first so many of the edits."""

    edits: int
    side: Response | Revision

    @property
    def text(self) -> str:
        return self.side.text


def make_chain(state: PromptState, context: StageContext) -> Dialogue[StageOutput]:
    """Pair the adjacent texts of a prompt's chain; asks nothing.

    A prompt of whose chain nothing but the answer is left is dropped, for what the gate has against
    the last text.
    """
    yield from ()
    texts = list(_texts(state))
    if len(texts) == 1:
        return drop(state, Stage.PAIR, DropReason.NO_OP, "the revision has no edit", texts[0].text)
    kept, dropped = _usable(state, context, texts)
    if len(kept) == 1:
        last = dropped[-1]
        return drop(state, Stage.PAIR, last.reason, last.detail, last.raw)
    pairs = [
        pair_of(
            state,
            context,
            _sides(before, after),
            step=_step(before, after, edits=len(texts) - 1),
            pairs=len(kept) - 1,
        )
        for before, after in pairwise(kept)
    ]
    return StageOutput((*pairs, *dropped))


def _texts(state: PromptState) -> Iterator[_Text]:
    revision, answer = state.revision, state.revised
    assert revision is not None
    assert answer is not None
    yield _Text(0, answer)
    edits = revision.edits or ()
    for number in range(1, len(edits) + 1):
        text = trimmed(apply_placed(answer.text, edits[:number]))
        yield _Text(number, revision.model_copy(update={"text": text}))


def _usable(
    state: PromptState, context: StageContext, texts: Sequence[_Text]
) -> tuple[list[_Text], list[DroppedStep]]:
    """The texts that can be sides; each is compared with the last one before it that can."""
    kept, dropped = [texts[0]], list[DroppedStep]()
    for text in texts[1:]:
        sides = _sides(kept[-1], text)
        cause = context.gate.check_revision(
            state.prompt.messages, kept[-1].text, text.text
        ) or context.gate.check_pair(
            state.prompt.messages, chosen=sides.chosen.text, rejected=sides.rejected.text
        )
        if cause is None:
            kept.append(text)
            continue
        dropped.append(
            DroppedStep(
                id=state.prompt.id,
                edit=text.edits,
                edits=len(texts) - 1,
                reason=cause.reason,
                detail=cause.detail,
                raw=text.text,
            )
        )
    return kept, dropped


def _sides(before: _Text, after: _Text) -> Sides:
    """The sides of two adjacent texts: a text with more edits is better, or worse by order."""
    assert isinstance(after.side, Revision)
    if after.side.direction == "worsen":
        return Sides(chosen=before.side, rejected=after.side)
    return Sides(chosen=after.side, rejected=before.side)


def _step(before: _Text, after: _Text, *, edits: int) -> ChainStep:
    sides = _sides(before, after)
    chosen_span, rejected_span = differing_spans(sides.chosen.text, sides.rejected.text)
    return ChainStep(
        first=before.edits + 1,
        last=after.edits,
        edits=edits,
        chosen_span=chosen_span,
        rejected_span=rejected_span,
    )


def differing_spans(one: str, other: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where two texts differ: the shortest passages without which they are equal.

    Returns:
        Beginning and end, in characters, of the passage in `one` and of that in `other`.
    """
    start = Prefix.similarity(one, other)
    end = Postfix.similarity(one[start:], other[start:])
    return (start, len(one) - end), (start, len(other) - end)


def sum_up_chains(dropped: Iterable[DroppedStep]) -> dict[str, Any]:
    """Count the texts that were left out of chains by reason, for the manifest."""
    return {"dropped_steps": dict(sorted(Counter(step.reason.value for step in dropped).items()))}
