"""Makes the preference pair of a prompt, and measures how far apart its sides are."""

import re

from clair_apo.alignment import edit_distance
from clair_apo.clair.filters.gate import DropCause, Gate
from clair_apo.clair.prompt_state import PromptState, StageOutput, drop
from clair_apo.clair.recipes import Sides
from clair_apo.clair.stages.context import StageContext
from clair_apo.llm import Dialogue
from clair_apo.records import (
    ChainStep,
    Contrast,
    Message,
    Origin,
    PreferencePair,
    Provenance,
    Response,
    Revision,
    Stage,
)

TOKENIZER = "lower-cased words and punctuation marks"
"""What counts as a token in every Jaccard similarity; written beside each table."""

_TOKEN = re.compile(r"\w+|[^\w\s]")


def token_set(text: str) -> frozenset[str]:
    """The distinct lower-cased words and punctuation marks of a text."""
    return frozenset(_TOKEN.findall(text.lower()))


def measure_contrast(*, chosen: str, rejected: str) -> Contrast:
    """Measure a pair with the two statistics of the CLAIR paper (arXiv 2408.06266, section 3).

    Args:
        chosen: the text of the better answer.
        rejected: the text of the other.

    Returns:
        Jaccard similarity of the token sets (0 to 1, higher is more contrastive; 1 for two empty
        texts) and Levenshtein distance in characters (lower is more contrastive); of
        very long texts it may be too large, see `clair_apo.alignment.edit_distance`.
    """
    better, worse = token_set(chosen), token_set(rejected)
    union = better | worse
    return Contrast(
        jaccard=len(better & worse) / len(union) if union else 1.0,
        levenshtein=edit_distance(rejected, chosen),
        rejected_characters=len(rejected),
        chosen_characters=len(chosen),
    )


def make_pair(state: PromptState, context: StageContext) -> Dialogue[StageOutput]:
    """Pair the two sides of a prompt, unless the gate has a reason against it; asks nothing."""
    yield from ()
    sides = context.recipe.sides(state)
    cause = _cause(state, sides, context.gate)
    if cause:
        raw = (state.revision or sides.chosen).text
        return drop(state, Stage.PAIR, cause.reason, cause.detail, raw)
    return StageOutput((pair_of(state, context, sides),))


def pair_of(
    state: PromptState,
    context: StageContext,
    sides: Sides,
    *,
    step: ChainStep | None = None,
    pairs: int = 1,
) -> PreferencePair:
    """A pair of a prompt, with its contrast and provenance.

    Args:
        state: the prompt.
        context: the recipe and the models.
        sides: the better answer and the other one.
        step: where the pair stands in a chain.
        pairs: how many pairs share what was paid for the prompt.
    """
    chosen, rejected = sides.chosen.text, sides.rejected.text
    return PreferencePair(
        id=state.prompt.id,
        recipe=context.recipe_name,
        prompt=state.prompt.messages,
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        rationale=state.revision.rationale if state.revision else "",
        contrast=measure_contrast(chosen=chosen, rejected=rejected),
        provenance=_provenance(state, context, sides, step, pairs),
    )


def _cause(state: PromptState, sides: Sides, gate: Gate) -> DropCause | None:
    """What the gate has against the revision, where there is one, or against the pair."""
    messages = state.prompt.messages
    if state.revision and state.revised:
        against = gate.check_revision(messages, state.revised.text, state.revision.text)
        if against:
            return against
    return gate.check_pair(messages, chosen=sides.chosen.text, rejected=sides.rejected.text)


def _provenance(
    state: PromptState,
    context: StageContext,
    sides: Sides,
    step: ChainStep | None,
    pairs: int,
) -> Provenance:
    revision, judgement, template = state.revision, state.judgement, context.template
    whole_cost = _whole_cost(state, context)
    judge = context.judge if judgement and context.clients.judge else None
    return Provenance(
        source=state.prompt.source,
        chosen=_origin(sides.chosen, context),
        rejected=_origin(sides.rejected, context),
        judged_by=judgement.model if judgement else None,
        judge_keys=judgement.request_keys if judgement else (),
        judge_cost=context.cost(judgement) if judgement else None,
        judge_digest=judge.digest if judge else None,
        judge_sampling=judge.chat.spec.sampling if judge else None,
        cost=None if whole_cost is None else whole_cost / pairs,
        format=revision.format if revision else None,
        direction=revision.direction if revision else None,
        template_digest=template.digest if revision and template else None,
        step=step,
    )


def _origin(side: Response | Revision, context: StageContext) -> Origin:
    if isinstance(side, Revision):
        kind = "revision"
    else:
        kind = "response" if side.request_keys else "given"
    return Origin(
        kind=kind,
        model=side.model,
        answered_by=side.answered_by,
        request_keys=side.request_keys,
        prompt_tokens=side.prompt_tokens,
        completion_tokens=side.completion_tokens,
        cost=context.cost(side),
        sampling=side.sampling,
    )


def _whole_cost(state: PromptState, context: StageContext) -> float | None:
    """USD of all that was asked for a prompt; what the data brought costs nothing."""
    made = (state.stronger, state.judgement, state.revision)
    asked = [paid for paid in (*state.responses, *made) if paid and paid.request_keys]
    costs = [context.cost(paid) for paid in asked]
    known = [one for one in costs if one is not None]
    return sum(known) if len(known) == len(costs) else None
