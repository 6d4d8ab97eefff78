"""Reads what the HTTP client raised into a `RequestFailure`: whose fault it is, what to do.

- `passing`: no connection, time-out, 408, 409, 429, 5xx: worth another attempt;
- `request`: 400, 413, 422, more tokens than a minute allows: this request alone has no answer;
- `refusal`: 403, 451 and every other 4xx: some servers refuse a prompt so, some a key; it is the
  request's fault where the server answers anything else, otherwise the run's;
- `run`: wrong key, address or model, no money left: no request will be answered.
"""

import json
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import openai

from clair_apo.llm.backends.connection import Connection
from clair_apo.llm.backends.transport_errors import fault_of
from clair_apo.llm.responses import is_error
from clair_apo.llm.spec import GO_ON

ODD_REPLIES = 3
"""So many replies that are no completion end the run where there was no other reply before."""

Fault = Literal["passing", "request", "refusal", "run"]

_PASSING = (408, 409, 425, 429)
_REQUEST = (400, 413, 422)
_OVERLOADED = (408, 429, 503, 529)
_BUSY = (425, 429, 503, 529)
_NO_MONEY_CODES = {  # `code` or `type` of the error object, at several providers
    "insufficient_quota",
    "exceeded_current_quota_error",
    "billing_hard_limit_reached",
    "billing_not_active",
    "insufficient_balance",
    "insufficient_credits",
    "arrearage",
}
_NO_MONEY_WORDS = (
    "insufficient balance",
    "insufficient credits",
    "used all available credits",
    "spending limit",
)
_NO_CREDIT = "your credit balance is too low"  # its status is 400


class RequestFailure(Exception):
    """A request had no answer, after one attempt or several.

    Attributes:
        fault: whose it is; see the docstring of the module.
        sentence: what happened, for people, without the key.
        advice: what to look at where the run ends by it.
        overloaded: the server has too much to do.
        timed_out: it did not answer in time.
        limited: it is there, and limits the rate.
        busy: it is there, and can answer later: it limits the rate, or still loads its model.
        retry_after_s: how long it asks to be left alone; None where it does not say.
        attempts: how many there were.
        sent_at: when the last was sent, on the clock of the event loop.
    """

    def __init__(
        self,
        fault: Fault,
        sentence: str,
        *,
        advice: str = GO_ON,
        overloaded: bool = False,
        timed_out: bool = False,
        limited: bool = False,
        busy: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(sentence)
        self.fault = fault
        self.sentence = sentence
        self.advice = advice
        self.overloaded = overloaded
        self.timed_out = timed_out
        self.limited = limited
        self.busy = busy
        self.retry_after_s = retry_after_s
        self.attempts = 1
        self.sent_at = -math.inf

    @property
    def message(self) -> str:
        """The sentence, and how many attempts it took."""
        return self.sentence + (f" ({self.attempts} attempts)" if self.attempts > 1 else "")


class FailureReader:
    """Reads what the client raises for one server.

    Args:
        connection: which server and model, how it is reached, and what is never in a sentence.
    """

    def __init__(self, connection: Connection) -> None:
        self._spec, self._proxy = connection.spec, connection.proxy
        self._where, self._mask = connection.where, connection.mask
        self._odd_replies = 0

    def read(self, error: Exception) -> RequestFailure:
        """The failure that an error of the client, or of a library below it, stands for."""
        if isinstance(error, openai.APIStatusError):
            return self._of_status(
                error.status_code,
                error.response.content.decode("utf-8", "replace"),
                retry_after_s(error.response.headers, time.time()),
            )
        if isinstance(error, TimeoutError):
            return RequestFailure(
                "passing",
                f"{self._where} did not answer within {self._spec.timeout_s:g} seconds (timeout_s)",
                overloaded=True,
                timed_out=True,
            )
        fault = fault_of(error, self._proxy is not None)
        happened = f"{self._where} {fault.happened} ({self._clean(fault.reason)})"
        return RequestFailure("passing" if fault.may_pass else "run", happened + fault.advice)

    def of_body(self, response: dict[str, Any]) -> RequestFailure | None:
        """The failure in a reply of status 200, as some servers send it; None if there is none."""
        if not is_error(response):
            return None
        error = response["error"]
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        return self._of_status(status, json.dumps(response), None)

    def of_other_reply(self, text: str, answered_before: bool) -> RequestFailure:
        """The failure of a reply of status 200 that is no completion, such as a proxy's page.

        Args:
            text: the reply.
            answered_before: the server has answered something else as it should.
        """
        happened = f"{self._where} replied with something else than a chat completion, beginning "
        happened += repr(self._clean(text, 60))
        self._odd_replies += 1
        if answered_before or self._odd_replies < ODD_REPLIES:
            return RequestFailure("passing", happened)
        return RequestFailure("run", f"{happened}; is base_url {self._spec.base_url!r} right?")

    def _of_status(self, status: int, body: str, retry_after_s: float | None) -> RequestFailure:
        error = _error_object(body)
        message = self._clean(_message(error) or _without_escapes(body))
        happened = f"{self._where} answered {status}" + (f": {message}" if message else "")
        if _no_money(status, error):
            return RequestFailure(
                "run", f"{happened}; the account has nothing left to spend: top it up; {GO_ON}"
            )
        if status in _REQUEST or _is_too_much_for_one(status, error):
            return RequestFailure("request", happened)
        if status in _PASSING or not 400 <= status < 500:
            return RequestFailure(
                "passing",
                happened,
                overloaded=status in _OVERLOADED,
                limited=status == 429,
                busy=status in _BUSY or retry_after_s is not None,
                retry_after_s=retry_after_s,
            )
        key = f"it refused the key in ${self._spec.api_key_env}"
        if self._proxy:
            key += f", or the proxy of ${self._proxy.variable} refused the address"
        if status == 407:
            return RequestFailure("run", f"{happened}; the proxy wants another user and password")
        if status == 401:
            return RequestFailure("run", f"{happened}; {key}")
        if status == 404:
            model = f"it knows no model {self._spec.model!r}, or base_url is wrong"
            return RequestFailure("run", f"{happened}; {model}")
        advice = f"{key}; {GO_ON}" if status == 403 else GO_ON
        return RequestFailure("refusal", happened, advice=advice)

    def _clean(self, text: str, most: int = 300) -> str:
        """The text in one line, masked before it is cut."""
        shown = " ".join(self._mask.text(text).split())[:most]
        return shown.encode("utf-8", "backslashreplace").decode()


def _error_object(body: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(content, list) and content:
        content = content[0]
    if not isinstance(content, dict):
        return {}
    error = content.get("error", content)  # some servers have no envelope around it
    return error if isinstance(error, dict) else {"message": str(error)}


def _without_escapes(body: str) -> str:
    """A body whose JSON spells every letter as it is: else a key could hide in escapes."""
    try:
        return json.dumps(json.loads(body), ensure_ascii=False)
    except (ValueError, RecursionError):
        return body


def _message(error: dict[str, Any]) -> str:
    return str(error.get("message") or error.get("detail") or "")


def _is_too_much_for_one(status: int, error: dict[str, Any]) -> bool:
    """Whether this one has more tokens than a minute."""
    return status == 429 and _message(error).lower().startswith("request too large")


def _no_money(status: int, error: dict[str, Any]) -> bool:
    message = _message(error).lower()
    if status == 402:
        return True
    if {str(error.get(name)).lower() for name in ("code", "type")} & _NO_MONEY_CODES:
        return True
    if status == 400:  # its text may quote the prompt
        return message.startswith(_NO_CREDIT)
    return status in (403, 412, 429) and any(words in message for words in _NO_MONEY_WORDS)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """What `Retry-After` asks for: seconds, or a date; `retry-after-ms` is more exact.

    Args:
        headers: of the reply, their names in small letters or of any case.
        now: seconds since 1970.

    Returns:
        Seconds from now, however many; None where the headers do not say.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = _seconds(headers.get(name, ""), unit, now)
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _seconds(value: str, unit: float, now: float) -> float:
    try:
        return float(value) * unit
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return math.nan
