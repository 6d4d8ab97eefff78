"""Reads one value of a foreign row: nothing, text, or the turns of a conversation."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from clair_apo.errors import DataError
from clair_apo.files import first_fault
from clair_apo.records import Conversation, Message

SHOWN_CHARACTERS = 80
"""The length at which a value is cut in an error message."""


def is_missing(value: Any) -> bool:
    """Whether a value is missing: null, or what data frames write for it (NaN, NaT, NA)."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # pandas' NA has no truth; an array has more than one
        return type(value).__name__ == "NAType"


def conversation(value: Any, where: str, column: str, role: str = "user") -> Conversation:
    """A foreign prompt or answer as messages: plain text becomes one turn of `role`.

    Raises:
        DataError: `value` is neither text nor a list of messages.
    """
    turns = [{"role": role, "content": value}] if isinstance(value, str) else value
    if not isinstance(turns, list | tuple) or not turns:
        raise DataError(
            f"{where}: {column!r} must be text or a list of messages, found {shown(value)}"
        )
    return tuple(_message(turn, number, where, column) for number, turn in enumerate(turns, 1))


def _message(turn: Any, number: int, where: str, column: str) -> Message:
    try:
        return Message.model_validate(_without_missing(turn))
    except ValidationError as error:
        place, found = error.errors()[0]["loc"], shown(turn)
        if isinstance(turn, Mapping) and place and place[0] in turn:
            found = f"{place[0]} {shown(turn[place[0]])}"
        raise DataError(
            f"{where}: {column!r} must be text or messages with role and content "
            f"({first_fault(error)}; turn {number} has {found})"
        ) from None


def _without_missing(turn: Any) -> Any:
    # Arrow gives every turn of a column the keys of all the others, filled with None
    if not isinstance(turn, Mapping):
        return turn
    return {key: value for key, value in turn.items() if not is_missing(value)}


def shown(value: Any) -> str:
    """A value as JSON in one line of at most `SHOWN_CHARACTERS`, for an error message."""
    try:
        text = json.dumps(value, default=repr)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
