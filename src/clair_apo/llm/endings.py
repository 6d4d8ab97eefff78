"""Reads what ended an answer from the finish reasons of many servers.

An answer is whole only where a finish reason says so that is known. An answer that a limit or a
filter ended counts too, as such. Any other finish reason, none, or an error beside the text means
that the answer broke off, and there is no answer.
"""

from collections.abc import Mapping
from typing import Any, Literal

Ending = Literal["stop", "length", "content_filter"]

_WHOLE = ("stop", "stop_sequence", "end_turn", "eos", "eos_token", "complete")
_CUT = (
    *("length", "max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens"),
    *("max_length", "token_limit", "model_length", "context_length", "context_length_exceeded"),
    *("context_window_exceeded", "model_context_window_exceeded"),
)
_FILTERED = (
    *("content_filter", "content_filtered", "content_policy", "content_policy_violation"),
    *("safety", "sensitive", "recitation", "blocklist", "prohibited_content", "spii"),
    *("moderation", "content_moderation", "guardrail", "guardrail_intervened", "model_armor"),
    *("refusal", "error_toxic"),
)
_BROKEN = (  # what a provider's own word may say although the server calls the answer ended
    *("error", "abort", "aborted", "cancel", "cancelled", "canceled", "interrupted"),
    *("insufficient_system_resource", "network_error", "time_limit", "timeout", "time_out"),
    *("malformed_function_call", "malformed_response", "unexpected_tool_call"),
)
_ENDINGS: dict[str, Ending] = {
    **dict.fromkeys(_WHOLE, "stop"),
    **dict.fromkeys(_CUT, "length"),
    **dict.fromkeys(_FILTERED, "content_filter"),
}
_PREFIX = "finish_reason_"


def ending_of(response: Mapping[str, Any], choice: Mapping[str, Any]) -> Ending:
    """What ended an answer.

    A `native_finish_reason`, the provider's own word behind a router, can only make it worse.

    Args:
        response: the response as a whole.
        choice: the choice of it that holds the answer.

    Raises:
        ValueError: nothing says that the answer came to an end; the message quotes the response.
    """
    for holder in (response, choice, choice.get("message")):
        if message := error_in(holder):
            raise ValueError(f"the answer broke off with an error: {message}")
    if not isinstance(choice.get("message"), Mapping):
        raise ValueError("the answer broke off (no message)")
    ending = _ENDINGS.get(_word(choice.get("finish_reason")))
    if ending is None:
        raise ValueError(_broke_off(choice.get("finish_reason")))
    native = _word(choice.get("native_finish_reason"))
    if ending == "stop" and native in _BROKEN:
        raise ValueError(_broke_off(choice["native_finish_reason"]))
    return _ENDINGS.get(native, ending) if ending == "stop" else ending


def error_in(holder: Any) -> str:
    """What the `error` of a JSON object says, in one line; empty where there is none."""
    error = holder.get("error") if isinstance(holder, Mapping) else None
    if not error:
        return ""
    if not isinstance(error, Mapping):
        return _one_line(error)
    if not any(error.values()):  # how some servers say that there is none
        return ""
    parts = (error.get("code"), error.get("message"))
    return ": ".join(_one_line(part) for part in parts if part) or _one_line(dict(error))


def _word(value: Any) -> str:
    """A finish reason as the tables spell it; empty for what is no word."""
    if not isinstance(value, str):
        return ""
    word = "_".join(value.strip().lower().replace("-", "_").split())
    return word.removeprefix(_PREFIX)


def _broke_off(reason: Any) -> str:
    shown = "no finish reason" if reason is None else f"finish reason {_one_line(reason)!r}"
    return f"the answer broke off ({shown})"


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())[:300]
