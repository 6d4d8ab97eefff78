"""A judge, or the data's scores, choose the best and the worst of several answers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

from clair_apo.clair.case import Case, Made, drop
from clair_apo.llm import Answer, Dialogue
from clair_apo.llm.judge import Judge, read_comparison
from clair_apo.records import DropReason, Judgement, Response, Stage, Vote

SCORES = "scores"
"""Stands for the judge where the data's scores decide."""


def choose_by_judge(case: Case, judge: Judge) -> Dialogue[Made]:
    """Have every two answers compared in both orders; most wins is best, fewest is worst.

    A comparison is won where both orders agree; otherwise both sides have half of it. Where the
    best answer won no more than the worst one, the case ends here, and its votes are kept.
    """
    pairs = [(a, b) for one, other in combinations(case.responses, 2) for a, b in _orders(one, other)]
    answers = yield tuple(
        judge.compare(case.prompt.messages, first.text, second.text) for first, second in pairs
    )
    failed = next((answer for answer in answers if answer.completion is None), None)
    if failed:
        return drop(case, Stage.JUDGE, DropReason.REQUEST_FAILED, failed.failure, "")
    votes = tuple(
        Vote(first=first.sample, second=second.sample, verdict=read_comparison(answer))
        for (first, second), answer in zip(pairs, answers, strict=True)
    )
    wins = _wins(votes)
    best, worst = max(wins, key=wins.__getitem__), min(wins, key=wins.__getitem__)
    decided = wins[best] > wins[worst]
    judgement = Judgement(
        prompt_id=case.prompt.id,
        better=best if decided else None,
        worse=worst if decided else None,
        votes=votes,
        model=judge.chat.identity,
        request_keys=tuple(answer.request.key for answer in answers),
        **_tokens(answers),
    )
    if decided:
        return Made((judgement,))
    dropped = drop(
        case,
        Stage.JUDGE,
        DropReason.JUDGE_REJECTED,
        f"the judge holds no answer for better ({'; '.join(_spelled(votes))})",
        "\n\n".join(a.completion.text for a in answers if a.completion),
    ).dropped
    return Made((judgement,), dropped)


def choose_by_score(case: Case) -> Dialogue[Made]:
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
    return Made((judgement,))


def _orders(one: Response, other: Response) -> Iterator[tuple[Response, Response]]:
    yield one, other
    yield other, one


def _wins(votes: Sequence[Vote]) -> Counter[int]:
    """Comparisons won by each sample; a pair of votes is one comparison in both orders."""
    wins: Counter[int] = Counter()
    for vote, swapped in zip(votes[::2], votes[1::2], strict=True):
        for sample in (vote.first, vote.second):
            wins[sample] += 0
        if vote.verdict == "first" and swapped.verdict == "second":
            wins[vote.first] += 2
        elif vote.verdict == "second" and swapped.verdict == "first":
            wins[vote.second] += 2
        else:
            wins[vote.first] += 1
            wins[vote.second] += 1
    return wins


def _spelled(votes: Sequence[Vote]) -> Iterator[str]:
    for vote in votes:
        yield f"{vote.first} before {vote.second}: {vote.verdict or 'no verdict'}"


def _tokens(answers: Sequence[Answer]) -> dict[str, int]:
    done = [answer.completion for answer in answers if answer.completion]
    return {
        "prompt_tokens": sum(completion.prompt_tokens for completion in done),
        "completion_tokens": sum(completion.completion_tokens for completion in done),
    }
