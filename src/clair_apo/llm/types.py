"""The vocabulary of asking: a request, its key, a response, the models, and a row's dialogue.

A response is kept as the JSON object of an OpenAI chat completion, whoever gave it; what the rest
of the package needs of it is a `Completion`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar

from pydantic import Field

from clair_apo.llm.endings import ending_of
from clair_apo.llm.responses import first_choice, model_in, said_in, usage_of
from clair_apo.records import (
    Conversation,
    FinishReason,
    Record,
    Sampling,
    Text,
    digest,
)

RawResponse = dict[str, Any]
T = TypeVar("T")


class ChatRequest(Record):
    """One question to one model, rendered."""

    model: str
    """The model's identity, not only its name: other weights, other identity."""
    messages: Conversation
    sampling: Sampling
    sample: int = 0
    """Which of several answers to the same question; other samples, other keys."""

    @cached_property
    def key(self) -> str:
        """SHA-256 over all that can change the answer, and nothing that cannot."""
        return digest(self.model_dump(exclude={"sampling"}) | {"sampling": self.sampling.in_key()})

    def body(self, model: str) -> dict[str, Any]:
        """The JSON body that asks an OpenAI-compatible server, live or from a batch file.

        Args:
            model: the name that the server knows.
        """
        sampling = self.sampling
        body = {
            "model": model,
            "messages": [{"role": m.role, "content": m.content} for m in self.messages],
            sampling.token_limit_field: sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        extra: dict[str, Any] = json.loads(sampling.extra_body or "{}")
        return {name: value for name, value in body.items() if value is not None} | extra

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, which does not remember the key of the original."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)
        return copied


class Completion(Record):
    """What a model answered."""

    text: Text
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    refused: bool = Field(False, exclude=True)
    """The text is the model's refusal, told in the field that there is for it."""
    model: str | None = Field(None, exclude=True)
    """The model that answered, as the server names it; None where it does not."""

    @classmethod
    def from_response(cls, response: RawResponse) -> "Completion":
        """Read an OpenAI chat completion.

        Raises:
            ValueError: it holds no answer, or one of which nothing says that it came to an end.
        """
        choice = first_choice(response)
        ending, said, usage = ending_of(response, choice), said_in(choice), usage_of(response)
        if (
            not said.text
            and ending == "stop"
            and usage.prompt_tokens
            and not usage.completion_tokens
        ):
            # the end of an answer is a token too: a provider that just woke up, for one
            raise ValueError("the model gave no token at all")
        return cls(
            **said._asdict(),
            finish_reason=ending,
            model=model_in(response),
            **usage._asdict(),
        )

    @classmethod
    def is_whole(cls, response: RawResponse) -> bool:
        """Whether a response holds an answer that came to an end."""
        try:
            cls.from_response(response)
        except ValueError:
            return False
        return True

    @classmethod
    def of_no_answer(cls, response: RawResponse) -> "Completion":
        """What a response cost that holds no answer, as an answer without text."""
        return cls(text="", finish_reason="other", **usage_of(response)._asdict())

    def to_response(self, model: str) -> RawResponse:
        """The same as an OpenAI chat completion, for models that are not behind a server."""
        said = {"content": None, "refusal": self.text} if self.refused else {"content": self.text}
        message = {"role": "assistant"} | said
        return {
            "object": "chat.completion",
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}],
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens,
            },
        }


@dataclass(frozen=True)
class Answered:
    """A request with its response, or with the reason why this one request can have none.

    A response that broke off is handed out like any other: `CachedChat` asks again for it.
    """

    request: ChatRequest
    response: RawResponse | None
    failure: str = ""


@dataclass(frozen=True)
class Answer:
    """A request with its completion, or with the reason why there is none."""

    request: ChatRequest
    completion: Completion | None
    failure: str = ""

    @classmethod
    def of_response(cls, request: ChatRequest, response: RawResponse) -> "Answer":
        """What a response says, or why it says nothing."""
        try:
            return cls(request, Completion.from_response(response))
        except ValueError as error:
            return cls(request, None, str(error))


Dialogue = Generator[tuple[ChatRequest, ...], tuple[Answer, ...], T]
"""What one row says to a model: it yields requests, is sent their answers, and returns its result.

It neither waits nor asks itself, so the same row goes to a server, a model in this process or a
batch file. Equal rows yield equal requests: nothing but the answers may decide what is asked next.
"""


class ChatModel(ABC):
    """A model that answers requests in groups: one in this process, a script, a batch service."""

    wave: int = 512
    """Rows whose requests are planned together."""

    def plan(self, requests: Sequence[ChatRequest]) -> list[Sequence[ChatRequest]]:
        """Part requests into the groups that are answered together; by default one each.

        The groups may depend on nothing but the requests: a run that was killed plans them again.
        """
        return [[request] for request in requests]

    @abstractmethod
    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[Answered]]:
        """Answer each request of a group once, in any order.

        Yields:
            Answers that are stored together, as soon as they are known.

        Raises:
            RequestError: no request can be answered (no model, no permission).
        """


class StreamingChat(Protocol):
    """A server that answers many requests at the same time, in any order."""

    in_flight_limit: int
    """The most requests that are ever under way."""

    def submit(self, request: ChatRequest, attempt: int = 1) -> None:
        """Take a request; it is sent as soon as the limits allow. Returns at once.

        Args:
            request: what to ask.
            attempt: which one it is; after an answer that broke off the next waits a little.
        """
        ...

    def collect(self, timeout_s: float | None = None) -> list[Answered]:
        """Wait for at least one answer, or for `timeout_s` seconds, and return all that are there.

        Raises:
            RequestError: the run must stop; whatever was answered has been returned before.
        """
        ...

    def settle(self, count: int) -> None:
        """Say that so many answers are stored: their places are free for other requests."""
        ...

    def stop(self) -> None:
        """Send nothing more; what is under way is still collected, and then `collect` raises."""
        ...

    def close(self) -> None:
        """Send nothing more and wait for nothing."""
        ...
