"""The vocabulary of asking: a request, its key, a response, the models, and a row's dialogue.

A response is kept as the JSON object of an OpenAI chat completion, whoever gave it; what the rest
of the package needs of it is a `Completion`.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from clair_apo.config import Section
from clair_apo.llm.endings import ending_of
from clair_apo.llm.pricing import Price
from clair_apo.llm.responses import first_choice, model_in, said_in, usage_of
from clair_apo.records import (
    Conversation,
    FinishReason,
    Record,
    Sampling,
    Text,
    TokenLimitField,
    canonical_json,
    digest,
)

RawResponse = dict[str, Any]
T = TypeVar("T")

# what `extra_body` may not hold: settings with a place of their own, or that part an answer
_NOT_EXTRA = {
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("n", "stream"),
}
_SECRET = re.compile(
    r"(?i)(api|access|auth|private)[-_]?(key|token)|secret|passw|credential|authorization|bearer|cookie"
    r"|^(key|token)$"
)


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

    A response that broke off is handed out like any other: `StoredChat` asks again for it.
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


class ModelSpec(Section):
    """Which model to ask, where, and how; a section of a generation config."""

    model: str
    """`smollm2-135m`, a folder or a hub name; with `base_url`, the name that the server knows."""
    revision: str | None = Field(None, min_length=1)
    """Which weights: of a hub name the commit or tag that is loaded; of a server, which tells only
    a name, any word of yours that changes when they do. Answers of another are not reused."""
    base_url: str | None = None
    """An OpenAI-compatible server, such as `http://127.0.0.1:8000/v1`; none: in this process."""
    mode: Literal["live", "batch", "files"] = "live"
    """`live`: one request at a time; `batch`: the server's Batch API, cheaper, within a day;
    `files`: files that `vllm run-batch` answers between two runs."""
    api_key_env: str = Field("OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable with the server's key; servers on this machine need none."""
    max_tokens: int = Field(512, gt=0)
    """Longest answer, in tokens; with a model that thinks first, its thinking included."""
    token_limit_field: TokenLimitField = "max_tokens"
    """The name under which the server takes `max_tokens`; OpenAI's models from gpt-5 on know
    `max_completion_tokens` only."""
    temperature: float | None = Field(0.7, ge=0, allow_inf_nan=False)
    """0 takes the likeliest token always; null is not sent, for servers that take no choice
    (in this process it is 1)."""
    top_p: float | None = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens that hold this share of the probability; null is not
    sent."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """What the server takes beside, such as `{reasoning_effort: low}`; part of every request and
    its key, and written into the manifest: no place for a secret."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds to wait for one answer of a server, per attempt."""
    patience_s: float = Field(3600.0, ge=0, allow_inf_nan=False)
    """Seconds that a server may keep the run waiting while it answers nothing because it is busy,
    limits the rate or still loads its model; one that asks for longer ends the run with the time
    at which to come again. One that cannot be reached is waited for 5 minutes at most, and 10
    seconds where it never answered."""
    max_in_flight: int = Field(256, gt=0)
    """The most requests to a server at the same time; how many it bears is learned on the way."""
    requests_per_minute: int | None = Field(None, gt=0)
    """A limit of the server's, where it has one."""
    tokens_per_minute: int | None = Field(None, gt=0)
    """The same for tokens, those of prompts and answers together."""
    price: Price | None = None
    """USD per million tokens; by default what the shipped table says of this model and server."""
    batch_size: int = Field(32, gt=0)
    """Requests per batch of a model in this process."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of a model in this process."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if fault := _address_fault(url):
            raise ValueError(f"{url!r} is no address ({fault})")
        parts = urlsplit(url)
        if "@" in url or parts.query:  # it stands in configs, manifests and messages
            raise ValueError(
                "expected an address without user, password and query; a key goes into the "
                "environment variable that api_key_env names"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected an address such as http://127.0.0.1:8000/v1, got {url!r}")
        return url

    @field_validator("extra_body")
    @classmethod
    def _is_public_and_new(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in extra:
            if name in _NOT_EXTRA:
                raise ValueError(f"{name!r} cannot be sent beside: it has a setting, or one value")
        for name in _names(extra):
            if _SECRET.search(name):
                raise ValueError(
                    f"{name!r} looks like a secret, and this is written into the manifest; the "
                    "server's key goes into the environment variable that api_key_env names"
                )
        return extra

    @model_validator(mode="after")
    def _is_sent_to_a_server(self) -> Self:
        local = self.base_url is None and self.mode != "files"
        fields = type(self).model_fields
        for name in ("token_limit_field", "extra_body"):
            if local and getattr(self, name) != fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} is for a server: set base_url, or leave {name} out")
        return self

    @model_validator(mode="after")
    def _has_a_batch_server(self) -> Self:
        if self.mode == "batch" and self.base_url is None:
            raise ValueError("mode 'batch' needs a server: set base_url")
        return self

    @property
    def served_identity(self) -> str:
        """What stands in request keys for a model that is not loaded here."""
        return self.model if self.revision is None else f"{self.model}@{self.revision}"

    @property
    def sampling(self) -> Sampling:
        """The part of the spec that belongs to a request's key."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            token_limit_field=self.token_limit_field,
            extra_body=canonical_json(self.extra_body) if self.extra_body else "",
        )


def _address_fault(url: str) -> str:
    """What keeps a text from being an address of any kind; empty where nothing does."""
    if not url.isprintable() or any(c.isspace() for c in url):
        return "it holds blanks, line ends or bytes that are no text"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is what checks it
        host = parts.hostname or ""
        if "%" in host:
            return "an address with a zone or with escapes; name the host"
        if ":" not in host:
            host.encode("idna")
    except ValueError as error:
        return str(error)
    return ""


def _names(value: JsonValue) -> Iterator[str]:
    """Every name in a JSON value, at any depth."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _names(inner)
