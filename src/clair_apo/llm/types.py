"""The types of asking: requests, what becomes of them, models, and dialogues.

ChatRequest    one question to one model
RawResponse    the JSON object of an OpenAI chat completion, as the store keeps it
ModelReply       a request with its raw response, as a model hands it out
Completion     what a raw response says, read
Answer         a request with its completion, as a dialogue is sent it

Dialogue       what one row asks, step by step
ChatModel      answers requests in groups; StreamingChat answers them in any order
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar

from pydantic import Field

from clair_apo.llm.endings import ending_of
from clair_apo.llm.responses import first_choice, model_name_in, text_in, usage_of
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
    """One question to one model."""

    model: str
    """The model's identity: its name, and what tells its weights from others."""
    messages: Conversation
    sampling: Sampling
    sample: int = 0
    """Which of several answers to the same question; each has a key of its own."""

    @cached_property
    def key(self) -> str:
        """The key in the store: SHA-256 over all that can change the answer, and nothing else."""
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
        """A copy without the cached key of the original."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)
        return copied


class Completion(Record):
    """The text that a model answered, how it ended, and its tokens."""

    text: Text
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    refused: bool = Field(False, exclude=True)
    """Whether the text is a refusal, from the response's field of refusals."""
    model: str | None = Field(None, exclude=True)
    """The model that answered, as the server names it; None where it does not."""

    @classmethod
    def from_response(cls, response: RawResponse) -> "Completion":
        """Read an OpenAI chat completion.

        Raises:
            ValueError: it holds no answer, or one of which nothing says that it came to an end.
        """
        choice = first_choice(response)
        ending, answer, usage = ending_of(response, choice), text_in(choice), usage_of(response)
        if (
            not answer.text
            and ending == "stop"
            and usage.prompt_tokens
            and not usage.completion_tokens
        ):
            # the end of an answer is a token too: a provider that just woke up, for one
            raise ValueError("the model gave no token at all")
        return cls(
            **answer._asdict(),
            finish_reason=ending,
            model=model_name_in(response),
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
        """A completion without text, with the usage of a response that holds no answer."""
        return cls(text="", finish_reason="other", **usage_of(response)._asdict())

    def to_response(self, model: str) -> RawResponse:
        """The completion as a raw response, for models that are not behind a server."""
        text = {"content": None, "refusal": self.text} if self.refused else {"content": self.text}
        message = {"role": "assistant"} | text
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
class ModelReply:
    """A request with its raw response, or with the reason why this one request can have none.

    Models hand these out. A response that broke off is handed out like any other: `CachedChat` asks
    again for it.
    """

    request: ChatRequest
    response: RawResponse | None
    failure: str = ""


@dataclass(frozen=True)
class Answer:
    """A request with its completion, or with the reason why there is none; for dialogues."""

    request: ChatRequest
    completion: Completion | None
    failure: str = ""

    @classmethod
    def of_response(cls, request: ChatRequest, response: RawResponse) -> "Answer":
        """Read a raw response: its completion, or why there is none."""
        try:
            return cls(request, Completion.from_response(response))
        except ValueError as error:
            return cls(request, None, str(error))


Dialogue = Generator[tuple[ChatRequest, ...], tuple[Answer, ...], T]
"""A row's questions: yields requests, is sent their answers, and returns the row's result.

It neither waits nor asks by itself, so the same row goes to a server, a model in this process or a
batch file. Equal rows yield equal requests: nothing but the answers may decide what is asked next.
"""


class ChatModel(ABC):
    """A model that answers requests in groups: one in this process, a script, a batch service."""

    wave: int = 512
    """Rows whose requests are planned together."""

    def plan(self, requests: Sequence[ChatRequest]) -> list[Sequence[ChatRequest]]:
        """Divide requests into groups that are answered together; by default one each.

        The groups may depend on nothing but the requests: a run that was killed plans them again.
        """
        return [[request] for request in requests]

    @abstractmethod
    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        """Answer each request of a group once, in any order.

        Yields:
            Answers that are stored together, as soon as they are known.

        Raises:
            RequestError: no request can be answered (no model, no permission).
        """


class StreamingChat(Protocol):
    """A server that answers many requests at the same time, in any order."""

    in_flight_limit: int
    """The largest number of requests under way."""

    def submit(self, request: ChatRequest, attempt: int = 1) -> None:
        """Take a request; it is sent as soon as the limits allow. Returns at once.

        Args:
            request: what to ask.
            attempt: which one it is; after an answer that broke off the next waits a little.
        """
        ...

    def collect(self, timeout_s: float | None = None) -> list[ModelReply]:
        """Wait for at least one answer, or for `timeout_s` seconds, and return all that are there.

        Raises:
            RequestError: the run must stop; whatever was answered has been returned before.
        """
        ...

    def settle(self, count: int) -> None:
        """Free the places of so many answers, which are stored now."""
        ...

    def stop(self) -> None:
        """Send nothing more; what is under way is still collected, and then `collect` raises."""
        ...

    def close(self) -> None:
        """Send nothing more and wait for nothing."""
        ...
