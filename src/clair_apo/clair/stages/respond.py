"""Answers to a prompt: the target model's own, a stronger model's, or those of the data."""

from clair_apo.clair.answer_text import answer_text, trimmed
from clair_apo.clair.filters.gate import Verdict, judge_answer
from clair_apo.clair.prompt_state import Case, Made, drop
from clair_apo.llm import Answer, Dialogue, StoredChat
from clair_apo.records import Dropped, DropReason, Prompt, Response, Stage


def respond(
    case: Case, target: StoredChat, samples: int, needed: int, strip_thinking: bool = True
) -> Dialogue[Made]:
    """Have the target model answer a prompt.

    Args:
        case: the prompt.
        target: the model that answers.
        samples: how many answers are asked for.
        needed: with fewer usable answers the prompt is dropped, for what was wrong with the first
            that is not usable.
        strip_thinking: whether thinking before an answer, and end marks behind it, are no part of
            it (`answer_text`).
    """
    return _asked(case, target, samples, needed, strip_thinking)


def strengthen(case: Case, stronger: StoredChat, strip_thinking: bool = True) -> Dialogue[Made]:
    """Have a stronger model answer the same prompt on its own."""
    return _asked(case, stronger, 1, 1, strip_thinking)


def given_answers(
    case: Case, samples: int | None, needed: int, strip_thinking: bool = True
) -> Dialogue[Made]:
    """The answers of the data, the first `samples` (None: all) of those that are usable."""
    yield from ()
    responses = [
        Response(
            prompt_id=case.prompt.id,
            sample=number,
            text=answer_text(answer.text, strip_thinking),
            model=answer.model or "given",
            finish_reason="given",
            score=answer.score,
        )
        for number, answer in enumerate(case.prompt.given)
    ]
    found = [
        _judged(response, answer.text, None)
        for response, answer in zip(responses, case.prompt.given, strict=True)
    ]
    return _usable(case, found, samples, needed)


def _asked(
    case: Case, chat: StoredChat, samples: int, needed: int, strip_thinking: bool
) -> Dialogue[Made]:
    answers = yield tuple(chat.request(case.prompt.messages, sample=k) for k in range(samples))
    found = [
        _from_answer(case.prompt, answer, number, chat, strip_thinking)
        for number, answer in enumerate(answers)
    ]
    return _usable(case, found, samples, needed)


def _from_answer(
    prompt: Prompt, answer: Answer, sample: int, chat: StoredChat, strip_thinking: bool
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
        model=chat.identity,
        answered_by=completion.model,
        request_keys=(answer.request.key,),
        sampling=answer.request.sampling,
        **completion.model_dump(exclude={"text"}),
        text=answer_text(completion.text, strip_thinking),
    )
    return _judged(response, completion.text, chat.spec.max_tokens)


def _judged(response: Response, raw: str, limit: int | None) -> Response | Dropped:
    verdict = judge_answer(response.text, response.finish_reason, response.completion_tokens, limit)
    if verdict is None:
        return response
    if verdict.reason is DropReason.EMPTY and trimmed(raw):
        detail = "the answer is thinking that never ends, or that nothing stands behind"
        verdict = Verdict(DropReason.CUT, detail)
    return Dropped(
        id=response.prompt_id,
        stage=Stage.RESPOND,
        reason=verdict.reason,
        detail=verdict.detail,
        raw=raw,
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
