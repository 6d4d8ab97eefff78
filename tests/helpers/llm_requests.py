"""Requests and specs for the tests of llm/."""

from collections.abc import Sequence

from clair_apo.llm import Answer, CachedChat, ChatRequest, Completion, Dialogue, Sampling
from clair_apo.records import Message


def ask_for(text: str, *, model: str = "m", sample: int = 0, **sampling: float) -> ChatRequest:
    settings: dict = {"max_tokens": 8, "temperature": 0.7, "top_p": 1.0} | sampling
    return ChatRequest(
        model=model,
        messages=(Message(role="user", content=text),),
        sampling=Sampling(**settings),
        sample=sample,
    )


def completion(text: str = "hello", finish_reason: str = "stop", tokens: int = 2) -> Completion:
    return Completion(
        text=text, finish_reason=finish_reason, prompt_tokens=3, completion_tokens=tokens
    )


def says(request: ChatRequest) -> Dialogue[Answer]:
    """A row that asks one question and returns its answer."""
    (answer,) = yield (request,)
    return answer


def answers_of(chat: CachedChat, requests: Sequence[ChatRequest]) -> list[Answer]:
    return list(chat.converse(says(request) for request in requests))
