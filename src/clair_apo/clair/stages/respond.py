"""Answers to a prompt: the target model's own, a stronger model's, or those of the data."""

from clair_apo.clair.answer_text import answer_text, trimmed
from clair_apo.clair.filters.gate import DropCause, check_answer
from clair_apo.clair.prompt_state import PromptState, StageOutput, drop
from clair_apo.llm import Answer, CachedChat, Dialogue
from clair_apo.records import Dropped, DropReason, Prompt, Response, Stage


def respond(
    case: PromptState, target: CachedChat, samples: int, needed: int, strip_thinking: bool = True
) -> Dialogue[StageOutput]:
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


def strengthen(
    case: PromptState, stronger: CachedChat, strip_thinking: bool = True
) -> Dialogue[StageOutput]:
    """Have a stronger model answer the same prompt on its own."""
    return _asked(case, stronger, 1, 1, strip_thinking)


def given_answers(
    case: PromptState, samples: int | None, needed: int, strip_thinking: bool = True
) -> Dialogue[StageOutput]:
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
    case: PromptState, chat: CachedChat, samples: int, needed: int, strip_thinking: bool
) -> Dialogue[StageOutput]:
    answers = yield tuple(chat.request(case.prompt.messages, sample=k) for k in range(samples))
    found = [
        _from_answer(case.prompt, answer, number, chat, strip_thinking)
        for number, answer in enumerate(answers)
    ]
    return _usable(case, found, samples, needed)


def _from_answer(
    prompt: Prompt, answer: Answer, sample: int, chat: CachedChat, strip_thinking: bool
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
    cause = check_answer(response.text, response.finish_reason, response.completion_tokens, limit)
    if cause is None:
        return response
    if cause.reason is DropReason.EMPTY and trimmed(raw):
        detail = "the answer is thinking that never ends, or that nothing stands behind"
        cause = DropCause(DropReason.CUT, detail)
    return Dropped(
        id=response.prompt_id,
        stage=Stage.RESPOND,
        reason=cause.reason,
        detail=cause.detail,
        raw=raw,
    )


def _usable(
    case: PromptState, found: list[Response | Dropped], samples: int | None, needed: int
) -> StageOutput:
    responses = tuple(row for row in found if isinstance(row, Response))[:samples]
    if len(responses) >= needed:
        return StageOutput(responses)
    failed = next((row for row in found if isinstance(row, Dropped)), None)
    if failed:
        return StageOutput((), failed)
    detail = f"the data brings {len(responses)} answers, the recipe needs {needed}"
    return drop(case, Stage.RESPOND, DropReason.EMPTY, detail, "")
