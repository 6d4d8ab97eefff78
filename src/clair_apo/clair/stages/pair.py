"""The two sides of a case become winner and loser, where the gate lets them pass."""

import re
from collections.abc import Callable
from typing import NamedTuple

from clair_apo.alignment import edit_distance
from clair_apo.clair.filters.gate import DropCause, Gate
from clair_apo.clair.prompt_state import PromptState, StageOutput, drop
from clair_apo.llm.judge import Judge
from clair_apo.records import (
    Contrast,
    Judgement,
    Message,
    Origin,
    PreferencePair,
    Provenance,
    Response,
    Revision,
    Stage,
)

TOKENIZER = "lower-cased words and punctuation marks"
"""What counts as a token in every Jaccard similarity; stands beside each table."""

_TOKEN = re.compile(r"\w+|[^\w\s]")


def token_set(text: str) -> frozenset[str]:
    """The distinct lower-cased words and punctuation marks of a text."""
    return frozenset(_TOKEN.findall(text.lower()))


def measure_contrast(*, chosen: str, rejected: str) -> Contrast:
    """Measure a pair with the two statistics of the CLAIR paper (arXiv 2408.06266, section 3).

    Args:
        chosen: the winner's text.
        rejected: the loser's text.

    Returns:
        Jaccard similarity of the token sets (0 to 1, higher is more contrastive; 1 for two empty
        texts) and Levenshtein distance in characters (lower is more contrastive); of
        very long texts it may be too large, see `clair_apo.alignment.edit_distance`.
    """
    winner, loser = token_set(chosen), token_set(rejected)
    union = winner | loser
    return Contrast(
        jaccard=len(winner & loser) / len(union) if union else 1.0,
        levenshtein=edit_distance(rejected, chosen),
        rejected_characters=len(rejected),
        chosen_characters=len(chosen),
    )


Paid = Response | Judgement | Revision
CostOf = Callable[[Paid], float | None]
"""USD that an answer, a judgement or a revision took, with all requests that led to it."""


class Sides(NamedTuple):
    """Winner and loser of a case."""

    chosen: Response | Revision
    rejected: Response | Revision


def sides(case: PromptState) -> Sides:
    """Who wins: the revision (or, worsened, the answer), the stronger model, the judge's choice."""
    if case.revision:
        if case.revision.direction == "worsen":
            return Sides(chosen=case.to_revise, rejected=case.revision)
        return Sides(chosen=case.revision, rejected=case.loser)
    return Sides(chosen=case.stronger or case.to_revise, rejected=case.loser)


def make_pair(
    case: PromptState,
    recipe: str,
    template_digest: str | None,
    gate: Gate,
    cost: CostOf = lambda _: None,
    judge: Judge | None = None,
) -> StageOutput:
    """Pair the sides of a case, unless the gate has a reason against it.

    Args:
        case: all that the recipe's stages made.
        recipe: its name.
        template_digest: of the template that asked for the revision; None where there is none.
        gate: judges the revision and the pair.
        cost: USD that a side took; None where that is not known.
        judge: who chose among answers; None where nobody or the data's scores did.
    """
    chosen, rejected = sides(case)
    revision, judgement = case.revision, case.judgement
    cause = _judged(case, gate) or gate.check_pair(
        case.prompt.messages, chosen=chosen.text, rejected=rejected.text
    )
    if cause:
        raw = (revision or chosen).text
        return drop(case, Stage.PAIR, cause.reason, cause.detail, raw)
    pair = PreferencePair(
        id=case.prompt.id,
        recipe=recipe,
        prompt=case.prompt.messages,
        chosen=(Message(role="assistant", content=chosen.text),),
        rejected=(Message(role="assistant", content=rejected.text),),
        rationale=revision.rationale if revision else "",
        contrast=measure_contrast(chosen=chosen.text, rejected=rejected.text),
        provenance=Provenance(
            source=case.prompt.source,
            chosen=_origin(chosen, cost),
            rejected=_origin(rejected, cost),
            judged_by=judgement.model if judgement else None,
            judge_keys=judgement.request_keys if judgement else (),
            judge_cost=cost(judgement) if judgement else None,
            judge_digest=judge.digest if judge else None,
            judge_sampling=judge.chat.spec.sampling if judge else None,
            cost=_whole_cost(case, cost),
            format=revision.format if revision else None,
            direction=revision.direction if revision else None,
            template_digest=template_digest if revision else None,
        ),
    )
    return StageOutput((pair,))


def _judged(case: PromptState, gate: Gate) -> DropCause | None:
    if case.revision is None:
        return None
    return gate.check_revision(case.prompt.messages, case.to_revise.text, case.revision.text)


def _origin(side: Response | Revision, cost: CostOf) -> Origin:
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
        cost=cost(side),
        sampling=side.sampling,
    )


def _whole_cost(case: PromptState, cost: CostOf) -> float | None:
    """USD of all that was asked for a case; what the data brought costs nothing."""
    made: tuple[Paid | None, ...] = (case.stronger, case.judgement, case.revision)
    asked = [paid for paid in (*case.responses, *made) if paid and paid.request_keys]
    costs = [cost(paid) for paid in asked]
    known = [one for one in costs if one is not None]
    return sum(known) if len(known) == len(costs) else None
