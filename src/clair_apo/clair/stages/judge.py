"""Asks a judge which of several answers are best and worst, and whether a finished pair holds.

`choose` is the stage `judge`: a judge, checks or the data's scores choose among answers. `verify`
is the last stage: a judge confirms a finished pair. Each has a function that sums its rows up for
the manifest.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any

from clair_apo.advice.comparisons import agreement, both_orders, read_both_orders
from clair_apo.clair.prompt_state import PromptState, StageOutput, drop
from clair_apo.clair.scorer import Scorer
from clair_apo.clair.stages.context import StageContext
from clair_apo.console import say
from clair_apo.llm import Answer, ChatRequest, Dialogue
from clair_apo.llm.judge import Judge, read_confirmation
from clair_apo.records import (
    Dropped,
    DropReason,
    Judgement,
    PreferencePair,
    Response,
    SampleScore,
    Stage,
    Verification,
    Vote,
)
from clair_apo.verification import VerificationSummary

SCORES = "scores"
"""Stands for the judge where the data's scores decide."""


def choose(state: PromptState, context: StageContext) -> Dialogue[StageOutput]:
    """Choose the best and the worst answer: by a scorer, by the judge, or by the data's scores."""
    if len(state.responses) < 2:  # models of a pool
        return _too_few(state, len(context.clients.pool))
    if context.scorer:
        return _choose_by_scorer(state, context.scorer)
    if context.clients.judge is None:
        return _choose_by_score(state)
    return _choose_by_judge(state, context.judge)


def _too_few(state: PromptState, models: int) -> Dialogue[StageOutput]:
    yield from ()
    detail = f"{len(state.responses)} of {models} models gave a usable answer"
    return drop(state, Stage.JUDGE, DropReason.EMPTY, detail, "")


def comparisons_of(state: PromptState, context: StageContext) -> int:
    """How many questions `choose` asks: every two answers in both orders, or each for its score."""
    answers = len(state.responses) or len(context.clients.pool) or context.samples
    if context.scorer is None:
        return answers * (answers - 1)
    return 0 if context.scorer.checks else answers


def _choose_by_judge(state: PromptState, judge: Judge) -> Dialogue[StageOutput]:
    """Have every two answers compared in both orders; most wins is best, fewest is worst.

    A comparison is won where both orders agree; otherwise both sides have half of it. Where the
    best answer won no more than the worst one, the prompt is dropped, and its votes are kept. Two
    equal answers are not put to the judge: they count as a tie in both orders.
    """
    if len({response.text for response in state.responses}) == 1:
        detail = f"all {len(state.responses)} answers are the same"
        return drop(state, Stage.JUDGE, DropReason.NO_OP, detail, state.responses[0].text)
    couples = list(combinations(state.responses, 2))
    answers = yield tuple(
        question
        for one, other in couples
        for question in both_orders(judge, state.prompt.messages, one.text, other.text)
    )
    failed = next((answer for answer in answers if answer.completion is None), None)
    if failed:
        return drop(state, Stage.JUDGE, DropReason.REQUEST_FAILED, failed.failure, "")
    judgement = _judgement(state, judge, _votes(couples, answers), answers)
    if judgement.better is not None:
        return StageOutput((judgement,))
    detail = f"the judge prefers no answer ({'; '.join(_spelled(judgement.votes))})"
    raw = "\n\n".join(answer.completion.text for answer in answers if answer.completion)
    undecided = drop(state, Stage.JUDGE, DropReason.JUDGE_REJECTED, detail, raw)
    return StageOutput((judgement,), undecided.dropped)


def _choose_by_score(state: PromptState) -> Dialogue[StageOutput]:
    """Take the answers with the highest and the lowest score; equal scores drop the prompt."""
    yield from ()
    scored = [response for response in state.responses if response.score is not None]
    scores = {response.sample: response.score or 0.0 for response in scored}
    if len(scored) < 2 or len(set(scores.values())) == 1:
        detail = (
            f"all answers have the score {next(iter(scores.values())):g}"
            if len(scored) > 1
            else f"{len(scored)} of {len(state.responses)} answers have a score; name a judge"
        )
        return drop(state, Stage.JUDGE, DropReason.JUDGE_REJECTED, detail, "")
    return StageOutput((_extremes(state, scores, SCORES),))


def _choose_by_scorer(state: PromptState, scorer: Scorer) -> Dialogue[StageOutput]:
    """Take the answers with the highest and the lowest score, or the one at the asked gap.

    Of several answers with the same score the first counts; where all have the same, the prompt is
    dropped. Answers without a score are left out.
    """
    texts = [response.text for response in state.responses]
    found = yield from scorer.scores(state.prompt.messages, texts)
    values = {
        response.sample: one.value
        for response, one in zip(state.responses, found, strict=True)
        if one.value is not None
    }
    if len(values) < 2:
        fault = next((one.fault for one in found if one.fault), "two are needed")
        detail = f"{len(values)} of {len(found)} answers have a score ({fault})"
        return drop(state, Stage.JUDGE, DropReason.NOT_SCORED, detail, "")
    if len(set(values.values())) == 1:
        detail = f"all {len(values)} answers have the score {next(iter(values.values())):g}"
        return drop(state, Stage.JUDGE, DropReason.JUDGE_REJECTED, detail, texts[0])
    paid = {one.answer.request.key: one.answer for one in found if one.answer}
    judgement = _extremes(state, values, scorer.identity, scorer.config.gap)
    spent = {"request_keys": tuple(paid), **tokens_of(paid.values())}
    return StageOutput((judgement.model_copy(update=spent),))


def _extremes(
    state: PromptState, scores: Mapping[int, float], model: str, gap: float | None = None
) -> Judgement:
    """The judgement in which the highest score wins, and the lowest or the one at a gap loses."""
    best = max(scores, key=scores.__getitem__)
    worst = min(scores, key=scores.__getitem__)
    if gap is not None:
        below = [sample for sample in scores if scores[sample] < scores[best]]
        worst = min(below, key=lambda sample: abs(scores[best] - gap - scores[sample]))
    return Judgement(
        prompt_id=state.prompt.id,
        better=best,
        worse=worst,
        votes=(),
        scores=tuple(SampleScore(sample=n, score=value) for n, value in scores.items()),
        model=model,
    )


def _votes(
    couples: Sequence[tuple[Response, Response]], answers: Sequence[Answer]
) -> tuple[Vote, ...]:
    replies, votes = iter(answers), list[Vote]()
    for one, other in couples:
        found = read_both_orders(() if one.text == other.text else list(islice(replies, 2)))
        votes += [
            Vote(first=one.sample, second=other.sample, verdict=found.shown_first),
            Vote(first=other.sample, second=one.sample, verdict=found.shown_second),
        ]
    return tuple(votes)


def _judgement(
    state: PromptState, judge: Judge, votes: tuple[Vote, ...], answers: Sequence[Answer]
) -> Judgement:
    wins = _wins(votes)
    best, worst = max(wins, key=wins.__getitem__), min(wins, key=wins.__getitem__)
    decided = wins[best] > wins[worst]
    # two equal answers are compared with a third one in the same words: asked, and paid, once
    paid = {answer.request.key: answer for answer in answers}
    return Judgement(
        prompt_id=state.prompt.id,
        better=best if decided else None,
        worse=worst if decided else None,
        votes=votes,
        model=judge.chat.identity,
        request_keys=tuple(paid),
        **tokens_of(paid.values()),
    )


def _wins(votes: Sequence[Vote]) -> Counter[int]:
    """Twice the comparisons won by each sample; a tie is one for both sides."""
    wins: Counter[int] = Counter()
    for vote, swapped in zip(votes[::2], votes[1::2], strict=True):
        for sample in (vote.first, vote.second):
            wins[sample] += 0
        if agreement(vote.verdict, swapped.verdict) == "consistent":
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


def sum_up_judgements(judgements: Iterable[Judgement]) -> dict[str, Any]:
    """Count a judge's votes for the manifest, comparison by comparison (both orders are one).

    Returns:
        Under `comparisons`: `comparisons`; of these `consistent` (both orders prefer the same
        answer), `ties` (both say so, or the answers are equal and nobody was asked), `unreadable`
        (a reply without verdict) and `inconsistent` (the rest); `votes` and of these `for_first`,
        whose share is a half for a judge that does not favour what is shown first.
    """
    numbers = Counter(
        comparisons=0, consistent=0, ties=0, inconsistent=0, unreadable=0, votes=0, for_first=0
    )
    for judgement in judgements:
        for vote, swapped in zip(judgement.votes[::2], judgement.votes[1::2], strict=True):
            numbers["comparisons"] += 1
            numbers[agreement(vote.verdict, swapped.verdict)] += 1
        numbers["votes"] += sum(vote.verdict in ("first", "second") for vote in judgement.votes)
        numbers["for_first"] += sum(vote.verdict == "first" for vote in judgement.votes)
    return {"comparisons": dict(numbers)}


def verify(state: PromptState, context: StageContext) -> Dialogue[StageOutput]:
    """Keep each pair that the judge confirms, for a control only if it rejects the swapped claim.

    A prompt is dropped where none of its pairs is kept.
    """
    claims = [_claims(pair, context) for pair in state.pairs]
    answers = yield tuple(claim for of_pair in claims for claim in of_pair)
    failed = next((answer for answer in answers if answer.completion is None), None)
    if failed:
        return drop(state, Stage.VERIFY, DropReason.REQUEST_FAILED, failed.failure, "")
    kept, verifications = list[PreferencePair](), list[Verification]()
    refused: Dropped | None = None
    replies = iter(answers)
    for pair, of_pair in zip(state.pairs, claims, strict=True):
        own = tuple(islice(replies, len(of_pair)))
        verification = _verification(pair, context.judge, own)
        verifications.append(verification)
        fault = _fault(verification)
        if fault is None:
            kept.append(_with_provenance(pair, verification, context.judge))
            continue
        raw = "\n\n".join(answer.completion.text for answer in own if answer.completion)
        refused = drop(state, Stage.VERIFY, DropReason.JUDGE_REJECTED, fault, raw).dropped
    return StageOutput((*kept, *verifications), None if kept else refused)


def _claims(pair: PreferencePair, context: StageContext) -> list[ChatRequest]:
    """The questions whether chosen is better and, about a control, also whether rejected is."""
    chosen, rejected = pair.chosen[-1].content, pair.rejected[-1].content
    claims = [context.judge.confirm(pair.prompt, chosen, rejected)]
    if context.controls.holds(pair.id):
        claims.append(context.judge.confirm(pair.prompt, rejected, chosen))
    return claims


def _verification(pair: PreferencePair, judge: Judge, answers: Sequence[Answer]) -> Verification:
    verdicts = [read_confirmation(answer) for answer in answers]
    step, control = pair.provenance.step, len(verdicts) > 1
    return Verification(
        pair_id=pair.id,
        last_edit=step.last if step else None,
        confirmed=verdicts[0],
        control_confirmed=verdicts[1] if control else None,
        control=control,
        model=judge.chat.identity,
        request_keys=tuple(answer.request.key for answer in answers),
        **tokens_of(answers),
    )


def claims_of(state: PromptState, context: StageContext) -> int:
    """How many questions `verify` puts to the judge: of each pair two if it is a control, or one.

    Of a prompt that has no pair yet one is assumed.
    """
    return (1 + context.controls.holds(state.prompt.id)) * max(len(state.pairs), 1)


def _fault(verification: Verification) -> str | None:
    if verification.confirmed is None:
        return "the judge's reply holds no verdict"
    if not verification.confirmed:
        return "the judge does not find the chosen answer better"
    if verification.control and verification.control_confirmed is not False:
        return "the judge does not reject the claim that the rejected answer is better"
    return None


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


def sum_up_verifications(verifications: Iterable[Verification]) -> dict[str, Any]:
    """Count what the verifying judge said for the manifest; warn where its word counts for little.

    Returns:
        Under `verification`: the fields of a `VerificationSummary`.
    """
    numbers = Counter(claims=0, confirmed=0, controls=0, controls_rejected=0)
    for verification in verifications:
        numbers["claims"] += 1
        numbers["confirmed"] += verification.confirmed is True
        numbers["controls"] += verification.control
        numbers["controls_rejected"] += verification.control_confirmed is False
    summary = VerificationSummary(**numbers)
    if summary.warning:
        say(summary.warning)
    return {"verification": summary.model_dump()}
