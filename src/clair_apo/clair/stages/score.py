"""Scores both sides of every pair; what was scored to choose among answers is not asked again."""

from clair_apo.clair.prompt_state import PromptState, StageOutput, drop
from clair_apo.clair.scorer import Score
from clair_apo.clair.stages.context import StageContext
from clair_apo.clair.stages.judge import tokens_of
from clair_apo.llm import Dialogue
from clair_apo.records import DropReason, PreferencePair, Stage


def score_pairs(state: PromptState, context: StageContext) -> Dialogue[StageOutput]:
    """Give both sides of a prompt's pairs their scores.

    A pair of which a side has none is left out; a prompt without any pair left is dropped.
    """
    scorer = context.scorer
    assert scorer is not None
    texts = [turns[-1].content for pair in state.pairs for turns in (pair.chosen, pair.rejected)]
    found = yield from scorer.scores(state.prompt.messages, texts)
    kept = [
        _with_scores(pair, chosen, rejected, context)
        for pair, chosen, rejected in zip(state.pairs, found[::2], found[1::2], strict=True)
        if chosen.value is not None and rejected.value is not None
    ]
    if kept:
        return StageOutput(tuple(kept))
    number = next(n for n, one in enumerate(found) if one.value is None)
    side = "rejected" if number % 2 else "chosen"
    detail = f"the {side} answer has no score: {found[number].fault}"
    return drop(state, Stage.SCORE, DropReason.NOT_SCORED, detail, texts[number])


def _with_scores(
    pair: PreferencePair, chosen: Score, rejected: Score, context: StageContext
) -> PreferencePair:
    assert context.scorer is not None
    before, chat = pair.provenance, context.scorer.chat
    paid = [one.answer for one in (chosen, rejected) if one.answer]
    cost = chat.meter.cost_of(**tokens_of(paid)) if chat else None
    whole = before.cost
    if chat:
        whole = None if whole is None or cost is None else whole + cost
    provenance = before.model_copy(
        update={
            "chosen": before.chosen.model_copy(update={"score": chosen.value}),
            "rejected": before.rejected.model_copy(update={"score": rejected.value}),
            "scored_by": context.scorer.identity,
            "score_keys": tuple(answer.request.key for answer in paid),
            "score_cost": cost,
            "cost": whole,
        }
    )
    return pair.model_copy(update={"provenance": provenance})
