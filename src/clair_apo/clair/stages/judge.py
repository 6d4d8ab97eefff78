"""A judge, or the data's scores, choose the best and the worst of several answers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from clair_apo.clair.prompt_state import PromptState, StageOutput, drop
from clair_apo.llm import Answer, Dialogue
from clair_apo.llm.judge import Judge, read_comparison, read_confirmation
from clair_apo.records import (
    Dropped,
    DropReason,
    Judgement,
    PreferencePair,
    Response,
    Stage,
    Verification,
    Vote,
    digest,
)
from clair_apo.verification import VerificationSummary

SCORES = "scores"
"""Stands for the judge where the data's scores decide."""


def choose_by_judge(case: PromptState, judge: Judge) -> Dialogue[StageOutput]:
    """Have every two answers compared in both orders; most wins is best, fewest is worst.

    A comparison is won where both orders agree; otherwise both sides have half of it. Where the
    best answer won no more than the worst one, the case ends here, and its votes are kept. Two
    equal answers are not put to the judge: they count as a tie in both orders.
    """
    if len({response.text for response in case.responses}) == 1:
        detail = f"all {len(case.responses)} answers are the same"
        return drop(case, Stage.JUDGE, DropReason.NO_OP, detail, case.responses[0].text)
    pairs = [
        (a, b) for one, other in combinations(case.responses, 2) for a, b in _orders(one, other)
    ]
    answers = yield tuple(
        judge.compare(case.prompt.messages, first.text, second.text)
        for first, second in pairs
        if first.text != second.text
    )
    failed = next((answer for answer in answers if answer.completion is None), None)
    if failed:
        return drop(case, Stage.JUDGE, DropReason.REQUEST_FAILED, failed.failure, "")
    verdicts = map(read_comparison, answers)
    votes = tuple(
        Vote(
            first=first.sample,
            second=second.sample,
            verdict="tie" if first.text == second.text else next(verdicts),
        )
        for first, second in pairs
    )
    # two equal answers are compared with a third one in the same words: asked, and paid, once
    paid = {answer.request.key: answer for answer in answers}
    wins = _wins(votes)
    best, worst = max(wins, key=wins.__getitem__), min(wins, key=wins.__getitem__)
    decided = wins[best] > wins[worst]
    judgement = Judgement(
        prompt_id=case.prompt.id,
        better=best if decided else None,
        worse=worst if decided else None,
        votes=votes,
        model=judge.chat.identity,
        request_keys=tuple(paid),
        **tokens_of(paid.values()),
    )
    if decided:
        return StageOutput((judgement,))
    dropped = drop(
        case,
        Stage.JUDGE,
        DropReason.JUDGE_REJECTED,
        f"the judge holds no answer for better ({'; '.join(_spelled(votes))})",
        "\n\n".join(a.completion.text for a in answers if a.completion),
    ).dropped
    return StageOutput((judgement,), dropped)


def choose_by_score(case: PromptState) -> Dialogue[StageOutput]:
    """The answers with the highest and the lowest score; where they are equal, the case ends."""
    yield from ()
    scored = [response for response in case.responses if response.score is not None]
    scores = {response.sample: response.score or 0.0 for response in scored}
    if len(scored) < 2 or len(set(scores.values())) == 1:
        detail = (
            f"all answers have the score {next(iter(scores.values())):g}"
            if len(scored) > 1
            else f"{len(scored)} of {len(case.responses)} answers have a score; name a judge"
        )
        return drop(case, Stage.JUDGE, DropReason.JUDGE_REJECTED, detail, "")
    judgement = Judgement(
        prompt_id=case.prompt.id,
        better=max(scores, key=scores.__getitem__),
        worse=min(scores, key=scores.__getitem__),
        votes=(),
        model=SCORES,
    )
    return StageOutput((judgement,))


def comparison_numbers(judgements: Iterable[Judgement]) -> dict[str, int]:
    """What a judge's votes came to, comparison by comparison (both orders are one).

    Returns:
        `comparisons`; of these `consistent` (both orders agree on a winner), `ties` (both say so,
        or the answers are equal and nobody was asked), `unreadable` (a reply without verdict) and
        `inconsistent` (the rest); `votes` and of these `for_first`, whose share would be a half
        for a judge without a liking for what stands first.
    """
    numbers = Counter(
        comparisons=0, consistent=0, ties=0, inconsistent=0, unreadable=0, votes=0, for_first=0
    )
    for judgement in judgements:
        for vote, swapped in zip(judgement.votes[::2], judgement.votes[1::2], strict=True):
            numbers["comparisons"] += 1
            numbers[_agreement(vote, swapped)] += 1
        numbers["votes"] += sum(vote.verdict in ("first", "second") for vote in judgement.votes)
        numbers["for_first"] += sum(vote.verdict == "first" for vote in judgement.votes)
    return dict(numbers)


def _agreement(vote: Vote, swapped: Vote) -> str:
    verdicts = {vote.verdict, swapped.verdict}
    if None in verdicts:
        return "unreadable"
    if verdicts == {"tie"}:
        return "ties"
    return "consistent" if verdicts == {"first", "second"} else "inconsistent"


def _orders(one: Response, other: Response) -> Iterator[tuple[Response, Response]]:
    yield one, other
    yield other, one


def _wins(votes: Sequence[Vote]) -> Counter[int]:
    """Comparisons won by each sample; a pair of votes is one comparison in both orders."""
    wins: Counter[int] = Counter()
    for vote, swapped in zip(votes[::2], votes[1::2], strict=True):
        for sample in (vote.first, vote.second):
            wins[sample] += 0
        if _agreement(vote, swapped) == "consistent":
            wins[vote.first if vote.verdict == "first" else vote.second] += 2
        else:
            wins[vote.first] += 1
            wins[vote.second] += 1
    return wins


def _spelled(votes: Sequence[Vote]) -> Iterator[str]:
    for vote in votes:
        yield f"{vote.first} before {vote.second}: {vote.verdict or 'no verdict'}"


def tokens_of(answers: Iterable[Answer]) -> dict[str, int]:
    """The tokens of a judge's answers, by the names that its records have for them."""
    done = [answer.completion for answer in answers if answer.completion]
    return {
        "prompt_tokens": sum(completion.prompt_tokens for completion in done),
        "completion_tokens": sum(completion.completion_tokens for completion in done),
    }


def is_control(pair_id: str, share: float, seed: int) -> bool:
    """Whether the claim about a pair is also put to the judge the wrong way round."""
    return int(digest([seed, pair_id])[:8], 16) / 2**32 < share


def verify(pair: PreferencePair, judge: Judge, control: bool) -> Dialogue[StageOutput]:
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
        return StageOutput((), _dropped(pair, DropReason.REQUEST_FAILED, failed.failure, ""))
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
        return StageOutput((verification, _with_provenance(pair, verification, judge)))
    raw = "\n\n".join(answer.completion.text for answer in answers if answer.completion)
    return StageOutput((verification,), _dropped(pair, DropReason.JUDGE_REJECTED, fault, raw))


def verification_numbers(verifications: Iterable[Verification]) -> VerificationSummary:
    """What a judge said, over all pairs."""
    numbers = Counter(claims=0, confirmed=0, controls=0, controls_rejected=0)
    for verification in verifications:
        numbers["claims"] += 1
        numbers["confirmed"] += verification.confirmed is True
        numbers["controls"] += verification.control
        numbers["controls_rejected"] += verification.control_confirmed is False
    return VerificationSummary(**numbers)


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
