"""Collects the answers to a prompt: the target model's, the data's, or a stronger model's."""

from clair_apo.clair.answer_text import answer_text, trimmed
from clair_apo.clair.filters.gate import DropCause, check_answer
from clair_apo.clair.prompt_state import PromptState, StageOutput, drop
from clair_apo.clair.stages.context import StageContext
from clair_apo.llm import Answer, CachedChat, Dialogue
from clair_apo.records import Dropped, DropReason, Prompt, Response, Stage


def respond(state: PromptState, context: StageContext) -> Dialogue[StageOutput]:
    """Have the target model answer a prompt, or take the answers that the data brings.

    A prompt with too few usable answers is dropped, for what was wrong with the first that is not
    usable. Where the data's scores choose, all its answers are taken, else the first `samples`.
    """
    recipe, clients = context.recipe, context.clients
    samples, needed = (context.samples, 2) if recipe.chooses else (1, 1)
    if not state.prompt.given and not recipe.given_only:
        assert clients.target is not None
        return _asked(state, context, clients.target, Stage.RESPOND, samples, needed)
    scored = recipe.given_only and clients.judge is None
    return _given(state, context, None if scored else samples, needed)


def respond_stronger(state: PromptState, context: StageContext) -> Dialogue[StageOutput]:
    """Have a stronger model answer the same prompt on its own."""
    assert context.clients.reviser is not None
    return _asked(state, context, context.clients.reviser, Stage.STRENGTHEN, 1, 1)


def respond_in_pool(
    state: PromptState, context: StageContext, number: int
) -> Dialogue[StageOutput]:
    """Have a model of the pool answer a prompt; its place in the pool is the sample's number.

    Where a judge or a scorer chooses among the models, one whose answer is not usable is left out;
    else that drops the prompt.
    """
    client = context.clients.pool[number]
    (answer,) = yield (client.request(state.prompt.messages),)
    found = _from_answer(
        state.prompt, answer, number, client, Stage.RESPOND, context.strip_thinking
    )
    if isinstance(found, Response):
        return StageOutput((found,))
    return StageOutput(()) if context.recipe.chooses else StageOutput((), found)


def _given(
    state: PromptState, context: StageContext, samples: int | None, needed: int
) -> Dialogue[StageOutput]:
    """The answers of the data, the first `samples` (None: all) of those that are usable."""
    yield from ()
    responses = [
        Response(
            prompt_id=state.prompt.id,
            sample=number,
            text=answer_text(answer.text, context.strip_thinking),
            model=answer.model or "given",
            finish_reason="given",
            score=answer.score,
        )
        for number, answer in enumerate(state.prompt.given)
    ]
    found = [
        _checked(response, answer.text, None, Stage.RESPOND)
        for response, answer in zip(responses, state.prompt.given, strict=True)
    ]
    return _usable(state, found, Stage.RESPOND, samples, needed)


def _asked(
    state: PromptState,
    context: StageContext,
    client: CachedChat,
    stage: Stage,
    samples: int,
    needed: int,
) -> Dialogue[StageOutput]:
    messages = state.prompt.messages
    answers = yield tuple(client.request(messages, sample=number) for number in range(samples))
    found = [
        _from_answer(state.prompt, answer, number, client, stage, context.strip_thinking)
        for number, answer in enumerate(answers)
    ]
    return _usable(state, found, stage, samples, needed)


def _from_answer(
    prompt: Prompt,
    answer: Answer,
    sample: int,
    client: CachedChat,
    stage: Stage,
    strip_thinking: bool,
) -> Response | Dropped:
    completion = answer.completion
    if completion is None:
        return Dropped(
            id=prompt.id,
            stage=stage,
            reason=DropReason.REQUEST_FAILED,
            detail=answer.failure,
            raw="",
        )
    response = Response(
        prompt_id=prompt.id,
        sample=sample,
        model=client.identity,
        answered_by=completion.model,
        request_keys=(answer.request.key,),
        sampling=answer.request.sampling,
        **completion.model_dump(exclude={"text"}),
        text=answer_text(completion.text, strip_thinking),
    )
    return _checked(response, completion.text, client.spec.max_tokens, stage)


def _checked(response: Response, raw: str, limit: int | None, stage: Stage) -> Response | Dropped:
    cause = check_answer(response.text, response.finish_reason, response.completion_tokens, limit)
    if cause is None:
        return response
    if cause.reason is DropReason.EMPTY and trimmed(raw):
        detail = "the answer is thinking that never ends, or that nothing follows"
        cause = DropCause(DropReason.CUT, detail)
    return Dropped(
        id=response.prompt_id, stage=stage, reason=cause.reason, detail=cause.detail, raw=raw
    )


def _usable(
    state: PromptState,
    found: list[Response | Dropped],
    stage: Stage,
    samples: int | None,
    needed: int,
) -> StageOutput:
    responses = tuple(row for row in found if isinstance(row, Response))[:samples]
    if len(responses) >= needed:
        return StageOutput(responses)
    failed = next((row for row in found if isinstance(row, Dropped)), None)
    if failed:
        return StageOutput((), failed)
    detail = f"the data brings {len(responses)} answers, the recipe needs {needed}"
    return drop(state, stage, DropReason.EMPTY, detail, "")
