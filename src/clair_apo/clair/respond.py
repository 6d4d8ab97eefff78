"""The target model answers, unless the data brings the answers: the second stage."""

from collections.abc import Callable, Iterator, Sequence

from clair_apo.clair.gate import judge_answer
from clair_apo.llm import Answer, StoredChat
from clair_apo.records import Dropped, DropReason, Prompt, Response, Stage


def respond(
    prompts: Sequence[Prompt], target: StoredChat, advance: Callable[[int], None] | None = None
) -> Iterator[Response | Dropped]:
    """Answer every prompt once; a prompt that can have no answer becomes a `Dropped` row.

    Args:
        prompts: what to answer; the order is kept.
        target: the model to be aligned. Not asked about prompts that bring a response.
        advance: told how many more prompts are answered.

    Raises:
        RequestError: the model cannot be asked.
    """
    limit = target.spec.max_tokens
    asked = [target.request(p.messages) for p in prompts if p.response is None]
    answers = target.ask(asked, advance)
    for prompt in prompts:
        if prompt.response is None:
            yield _from_answer(prompt, next(answers), target.identity, limit)
        else:
            given = Response(
                prompt_id=prompt.id,
                text=_tidy(prompt.response),
                model="given",
                finish_reason="given",
            )
            yield _judged(given, limit)


def _from_answer(prompt: Prompt, answer: Answer, model: str, limit: int) -> Response | Dropped:
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
        model=model,
        request_key=answer.request.key,
        **completion.model_dump(exclude={"text"}),
        text=_tidy(completion.text),
    )
    return _judged(response, limit)


def _tidy(text: str) -> str:
    """As revisions are read: else line ends and outer blanks would tell loser from winner."""
    return text.replace("\r\n", "\n").strip()


def _judged(response: Response, limit: int) -> Response | Dropped:
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
