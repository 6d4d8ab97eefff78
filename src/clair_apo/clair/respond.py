"""Answers to a prompt: the target model's own, a stronger model's, or those of the data."""

from clair_apo.clair.case import Case, Made, drop
from clair_apo.clair.gate import judge_answer
from clair_apo.llm import Answer, Dialogue, StoredChat
from clair_apo.records import Dropped, DropReason, Prompt, Response, Stage


def respond(case: Case, target: StoredChat, samples: int, needed: int) -> Dialogue[Made]:
    """Have the target model answer a prompt.

    Args:
        case: the prompt.
        target: the model that answers.
        samples: how many answers are asked for.
        needed: with fewer usable answers the prompt is dropped, for what was wrong with the first
            that is not usable.
    """
    return _asked(case, target, samples, needed)


def strengthen(case: Case, stronger: StoredChat) -> Dialogue[Made]:
    """Have a stronger model answer the same prompt on its own."""
    return _asked(case, stronger, 1, 1)


def given_answers(case: Case, samples: int | None, needed: int) -> Dialogue[Made]:
    """The answers of the data, the first `samples` (None: all) of those that are usable."""
    yield from ()
    responses = [
        Response(
            prompt_id=case.prompt.id,
            sample=number,
            text=_tidy(answer.text),
            model=answer.model or "given",
            finish_reason="given",
            score=answer.score,
        )
        for number, answer in enumerate(case.prompt.given)
    ]
    return _usable(case, [_judged(response, None) for response in responses], samples, needed)


def _asked(case: Case, chat: StoredChat, samples: int, needed: int) -> Dialogue[Made]:
    answers = yield tuple(chat.request(case.prompt.messages, sample=k) for k in range(samples))
    limit = chat.spec.max_tokens
    found = [
        _from_answer(case.prompt, answer, number, chat.identity, limit)
        for number, answer in enumerate(answers)
    ]
    return _usable(case, found, samples, needed)


def _from_answer(
    prompt: Prompt, answer: Answer, sample: int, model: str, limit: int
) -> Response | Dropped:
    completion = answer.completion
    if completion is None:
        return Dropped(
            id=prompt.id,
            stage=Stage.RESPOND,
            reason=DropReason.REQUEST_FAILED,
            detail=answer.failure,
            raw="",
        )
    response = Response(
        prompt_id=prompt.id,
        sample=sample,
        model=model,
        answered_by=completion.model,
        request_keys=(answer.request.key,),
        sampling=answer.request.sampling,
        **completion.model_dump(exclude={"text"}),
        text=_tidy(completion.text),
    )
    return _judged(response, limit)


def _judged(response: Response, limit: int | None) -> Response | Dropped:
    verdict = judge_answer(response.text, response.finish_reason, response.completion_tokens, limit)
    if verdict is None:
        return response
    return Dropped(
        id=response.prompt_id,
        stage=Stage.RESPOND,
        reason=verdict.reason,
        detail=verdict.detail,
        raw=response.text,
    )


def _usable(case: Case, found: list[Response | Dropped], samples: int | None, needed: int) -> Made:
    responses = tuple(row for row in found if isinstance(row, Response))[:samples]
    if len(responses) >= needed:
        return Made(responses)
    failed = next((row for row in found if isinstance(row, Dropped)), None)
    if failed:
        return Made((), failed)
    detail = f"the data brings {len(responses)} answers, the recipe needs {needed}"
    return drop(case, Stage.RESPOND, DropReason.EMPTY, detail, "")


def _tidy(text: str) -> str:
    """As revisions are read: else line ends and outer blanks would tell loser from winner."""
    return text.replace("\r\n", "\n").strip()
