"""A judge confirms that the winner is better; claims turned round show whether it looks at all."""

from collections import Counter
from collections.abc import Iterable

from clair_apo.clair.prompt_state import Made
from clair_apo.clair.stages.judge import tokens_of
from clair_apo.llm import Dialogue
from clair_apo.llm.judge import Judge, read_confirmation
from clair_apo.records import (
    Dropped,
    DropReason,
    PreferencePair,
    Stage,
    Verification,
    digest,
)
from clair_apo.verification import Controls


def is_control(pair_id: str, share: float, seed: int) -> bool:
    """Whether the claim about a pair is also put to the judge the wrong way round."""
    return int(digest([seed, pair_id])[:8], 16) / 2**32 < share


def verify(pair: PreferencePair, judge: Judge, control: bool) -> Dialogue[Made]:
    """Keep a pair if the judge confirms it and, for a control, rejects it the wrong way round.

    Args:
        pair: what is claimed.
        judge: who is asked.
        control: whether the swapped claim is put as well.
    """
    chosen, rejected = pair.chosen[-1].content, pair.rejected[-1].content
    questions = [judge.confirm(pair.prompt, chosen, rejected)]
    if control:
        questions.append(judge.confirm(pair.prompt, rejected, chosen))
    answers = yield tuple(questions)
    failed = next((answer for answer in answers if answer.completion is None), None)
    if failed:
        return Made((), _dropped(pair, DropReason.REQUEST_FAILED, failed.failure, ""))
    verdicts = [read_confirmation(answer) for answer in answers]
    verification = Verification(
        pair_id=pair.id,
        confirmed=verdicts[0],
        control_confirmed=verdicts[1] if control else None,
        control=control,
        model=judge.chat.identity,
        request_keys=tuple(answer.request.key for answer in answers),
        **tokens_of(answers),
    )
    fault = _fault(verification)
    if fault is None:
        return Made((verification, _with_provenance(pair, verification, judge)))
    raw = "\n\n".join(answer.completion.text for answer in answers if answer.completion)
    return Made((verification,), _dropped(pair, DropReason.JUDGE_REJECTED, fault, raw))


def verification_numbers(verifications: Iterable[Verification]) -> Controls:
    """What a judge said, over all pairs."""
    numbers = Counter(claims=0, confirmed=0, controls=0, controls_rejected=0)
    for verification in verifications:
        numbers["claims"] += 1
        numbers["confirmed"] += verification.confirmed is True
        numbers["controls"] += verification.control
        numbers["controls_rejected"] += verification.control_confirmed is False
    return Controls(**numbers)


def _with_provenance(
    pair: PreferencePair, verification: Verification, judge: Judge
) -> PreferencePair:
    """The pair, which says who confirmed it and what that took."""
    before = pair.provenance
    cost = judge.chat.meter.cost_of(verification.prompt_tokens, verification.completion_tokens)
    provenance = before.model_copy(
        update={
            "verified_by": verification.model,
            "verify_keys": verification.request_keys,
            "verify_cost": cost,
            "judge_digest": judge.digest,
            "judge_sampling": judge.chat.spec.sampling,
            "cost": None if before.cost is None or cost is None else before.cost + cost,
        }
    )
    return pair.model_copy(update={"provenance": provenance})


def _fault(verification: Verification) -> str | None:
    if verification.confirmed is None:
        return "the judge's reply holds no verdict"
    if not verification.confirmed:
        return "the judge does not hold the winner for better"
    if verification.control and verification.control_confirmed is not False:
        return "the judge does not reject the claim that the loser is better"
    return None


def _dropped(pair: PreferencePair, reason: DropReason, detail: str, raw: str) -> Dropped:
    return Dropped(id=pair.id, stage=Stage.VERIFY, reason=reason, detail=detail, raw=raw)
