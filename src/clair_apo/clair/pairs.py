"""The two sides of a case become winner and loser, where the gate lets them pass."""

from collections.abc import Callable
from typing import NamedTuple

from clair_apo.clair.case import Case, Made, drop
from clair_apo.clair.contrast import measure_contrast
from clair_apo.clair.gate import Gate, Verdict
from clair_apo.records import (
    Message,
    Origin,
    PreferencePair,
    Provenance,
    Response,
    Revision,
    Stage,
)

CostOf = Callable[[Response | Revision], float | None]
"""USD that an answer or a revision took, with all requests that led to it."""


class Sides(NamedTuple):
    """Winner and loser of a case."""

    chosen: Response | Revision
    rejected: Response | Revision


def sides(case: Case) -> Sides:
    """Who wins: the revision (or, worsened, the answer), the stronger model, the judge's choice."""
    if case.revision:
        if case.revision.direction == "worsen":
            return Sides(chosen=case.to_revise, rejected=case.revision)
        return Sides(chosen=case.revision, rejected=case.loser)
    return Sides(chosen=case.stronger or case.to_revise, rejected=case.loser)


def make_pair(
    case: Case,
    recipe: str,
    template_digest: str | None,
    gate: Gate,
    cost: CostOf = lambda _: None,
) -> Made:
    """Pair the sides of a case, unless the gate has a reason against it.

    Args:
        case: all that the recipe's stages made.
        recipe: its name.
        template_digest: of the template that asked for the revision; None where there is none.
        gate: judges the revision and the pair.
        cost: USD that a side took; None where that is not known.
    """
    chosen, rejected = sides(case)
    revision, judgement = case.revision, case.judgement
    verdict = _judged(case, gate) or gate.judge_pair(
        case.prompt.messages, chosen=chosen.text, rejected=rejected.text
    )
    if verdict:
        raw = (revision or chosen).text
        return drop(case, Stage.PAIR, verdict.reason, verdict.detail, raw)
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
            format=revision.format if revision else None,
            direction=revision.direction if revision else None,
            template_digest=template_digest if revision else None,
        ),
    )
    return Made((pair,))


def _judged(case: Case, gate: Gate) -> Verdict | None:
    if case.revision is None:
        return None
    return gate.judge_revision(case.prompt.messages, case.to_revise.text, case.revision.text)


def _origin(side: Response | Revision, cost: CostOf) -> Origin:
    if isinstance(side, Revision):
        kind = "revision"
    else:
        kind = "response" if side.request_keys else "given"
    return Origin(
        kind=kind,
        model=side.model,
        request_keys=side.request_keys,
        prompt_tokens=side.prompt_tokens,
        completion_tokens=side.completion_tokens,
        cost=cost(side),
    )
