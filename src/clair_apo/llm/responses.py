"""Reads chat completions, also those that differ from OpenAI's format."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from clair_apo.records import canonical_json

_LONGEST_NAME = 200
# halves of surrogate pairs, which JSON can spell and no file can hold
_HALVES = re.compile("[\ud800-\udfff]")


class Usage(NamedTuple):
    """The tokens that a response was billed for; 0 where the server does not say."""

    prompt_tokens: int
    completion_tokens: int


def usage_of(response: Mapping[str, Any]) -> Usage:
    """The usage of a response, whether or not there is an answer in it."""
    usage = response.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Usage(count_of(counts.get("prompt_tokens")), count_of(counts.get("completion_tokens")))


def is_completion(response: Mapping[str, Any]) -> bool:
    """Whether a body of status 200 is one that may be paid for, readable or not."""
    return not is_error(response) and ("choices" in response or "usage" in response)


def is_error(response: Mapping[str, Any]) -> bool:
    """Whether a body of status 200 says what went wrong in place of an answer."""
    return bool(response.get("error")) and not response.get("choices")


def first_choice(response: Mapping[str, Any]) -> dict[str, Any]:
    """The choice that holds the answer.

    Raises:
        ValueError: there is none.
    """
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    shown = writable(canonical_json(response)[:200])
    raise ValueError(f"the response holds no answer in choices[0]: {shown}")


def has_text(response: Mapping[str, Any]) -> bool:
    """Whether there is any text in the response, whole or not."""
    try:
        return bool(text_in(first_choice(response)).text)
    except ValueError:
        return False


class AnswerText(NamedTuple):
    """The text of a choice."""

    text: str
    refused: bool
    """Whether it comes from the field of refusals."""


def text_in(choice: Mapping[str, Any]) -> AnswerText:
    """The text of a choice: empty where there is none, joined where it comes in typed chunks.

    Chunks of other types, such as a model's thinking, are left out. Where the text is blank and a
    refusal stands beside it, in a field or a chunk of its own, its words are the text.
    """
    message = choice.get("message")
    if not isinstance(message, dict):
        return AnswerText("", False)
    content, refusal = message.get("content"), message.get("refusal")
    chunks = content if isinstance(content, list) else [content]
    text = "".join(_chunk(chunk, "text") for chunk in chunks)
    declined = "".join(_chunk(chunk, "refusal") for chunk in chunks if isinstance(chunk, dict))
    declined = declined or (refusal if isinstance(refusal, str) else "")
    refused = bool(declined.strip())
    return AnswerText(writable(declined if refused and not text.strip() else text), refused)


def model_name_in(response: Mapping[str, Any]) -> str | None:
    """The name of the model that answered, as the server tells it; None where it does not."""
    model = response.get("model")
    if not isinstance(model, str) or not model.strip():
        return None
    return writable(" ".join(model.split()))[:_LONGEST_NAME]


def writable(text: str) -> str:
    """The text as a file can hold it: half a surrogate pair becomes a replacement character."""
    return _HALVES.sub("\ufffd", text)


def _chunk(chunk: Any, kind: str) -> str:
    if isinstance(chunk, dict) and chunk.get("type") == kind:
        chunk = chunk.get(kind)
    return chunk if isinstance(chunk, str) else ""


def count_of(value: Any) -> int:
    """A number of tokens in a response; 0 for what is no such number."""
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0
