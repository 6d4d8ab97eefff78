"""How a chat completion is read, whichever liberties its server takes with the format."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from clair_apo.records import canonical_json

# halves of surrogate pairs, which JSON can spell and no file can hold
_HALVES = re.compile("[\ud800-\udfff]")


class Usage(NamedTuple):
    """The tokens that a response was paid for; 0 where the server does not say."""

    prompt_tokens: int
    completion_tokens: int


def usage_of(response: Mapping[str, Any]) -> Usage:
    """The usage of a response, whether or not there is an answer in it."""
    usage = response.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Usage(_count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))


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


def text_of(choice: Mapping[str, Any]) -> str:
    """The text of a choice: empty where there is none, joined where it comes in typed chunks.

    Chunks of other types, such as a model's thinking, are left out.
    """
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    chunks = content if isinstance(content, list) else [content]
    return writable("".join(_chunk(chunk) for chunk in chunks))


def writable(text: str) -> str:
    """The text as a file can hold it: half a surrogate pair becomes a replacement character."""
    return _HALVES.sub("\ufffd", text)


def _chunk(chunk: Any) -> str:
    if isinstance(chunk, dict) and chunk.get("type") == "text":
        chunk = chunk.get("text")
    return chunk if isinstance(chunk, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0
