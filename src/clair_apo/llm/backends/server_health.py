"""Is the server at fault or the request? Decides when attempts fail and nothing is answered.

A server that is down is waited for, and ends the run when it stays down; a request that it cannot
answer fails alone. The two differ in whether anything else is answered, and where nothing else is
asked, in whether a short question of our own is answered. While the server is down only that
question is sent.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable

from clair_apo.console import duration, say, wait_in_words
from clair_apo.errors import RequestError
from clair_apo.llm.backends.http_errors import RequestFailure
from clair_apo.llm.backends.rate_limits import RateLimiter
from clair_apo.llm.pricing import Meter
from clair_apo.llm.spec import GO_ON

ATTEMPTS = 6
"""How often a request is tried."""
TIME_OUTS = 3
"""How often a request that times out is tried: each time may be paid for."""
RATE_LIMITS = 20
"""How often, besides, the server may answer one request with its rate limit."""
PATIENCE_S = 300.0
"""How long a server that answered before may be down before the run ends; one that is there and
busy has `patience_s` of its spec."""
FIRST_PATIENCE_S = 10.0
"""How long a server that never answered may be down: more likely it is the wrong one."""
CONSECUTIVE_FAILURES = 16
"""So many attempts may fail one after the other before the server is taken to be down."""
MOST_FAILURES = 20
"""So many requests may fail for good one after the other, with no answer between them: then a
server that merely rejects them is asked a short question, and any other ends the run."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


def jittered_wait_s(attempt: int) -> float:
    """How long to wait after the `attempt`-th failure: anything up to a doubling bound."""
    return random.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1)))


class Attempts:
    """Counts the failed attempts of one request."""

    def __init__(self) -> None:
        self._failed = self._timed_out = self._limited = 0

    def wait_s(self, failure: RequestFailure) -> float | None:
        """Count one more failure; seconds until the next attempt, None where there is none."""
        if failure.fault != "passing":
            return None
        self._limited += failure.limited
        self._failed += not failure.limited
        self._timed_out += failure.timed_out
        if self._failed >= ATTEMPTS or self._timed_out >= TIME_OUTS or self._limited >= RATE_LIMITS:
            return None
        return jittered_wait_s(self._failed + self._limited)


class ServerHealth:
    """Keeps whether a server answers, and waits for it where it does not.

    Args:
        limiter: shut while the server is down.
        meter: shows until when nothing is sent.
        probe: asks the short question; returns what went wrong, None when it was answered.
        patience_s: how long a server that is there and busy may answer nothing.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        meter: Meter,
        probe: Callable[[], Awaitable[RequestFailure | None]],
        patience_s: float,
    ) -> None:
        self._limiter, self._meter, self._probe = limiter, meter, probe
        self._patience_s = patience_s
        self._busy_since: float | None = None
        self._answered_at = -math.inf
        self._back_at = -math.inf
        self._failed_attempts = 0
        self._failures = 0
        self._rejections = 0
        self._deciding = asyncio.Lock()

    @property
    def ever_answered(self) -> bool:
        """Whether the server has answered anything."""
        return self._answered_at > -math.inf

    def answered(self) -> None:
        """Note that a request was answered."""
        self._answered_at = _now()
        self._busy_since = None
        self._failed_attempts = self._failures = self._rejections = 0

    def patience_exceeded(self, failure: RequestFailure) -> str:
        """The sentence that ends the run where a busy server asks for more time than it has.

        Empty where there is time left, and for any other failure.
        """
        if not failure.busy:
            return ""
        now = _now()
        self._busy_since = now if self._busy_since is None else self._busy_since
        waited_s, pause_s = now - self._busy_since, failure.retry_after_s or 0.0
        if pause_s <= self._patience_s - waited_s:
            return ""
        asked = f"it asks for {wait_in_words(pause_s)}" if pause_s else "it has nothing to answer"
        before = f" after {duration(waited_s)} of waiting" if waited_s >= 0.5 else ""
        return (
            f"{failure.message}; {asked}{before}, longer than patience_s allows "
            f"({duration(self._patience_s)}); {GO_ON}"
            + (" then, or with a larger patience_s" if pause_s else "")
        )

    async def attempt_failed(self, failure: RequestFailure) -> None:
        """Note that an attempt failed that may be repeated; returns when it can be.

        Raises:
            RequestError: the server is down for good.
        """
        self._failed_attempts += 1
        if self._failed_attempts >= CONSECUTIVE_FAILURES:
            async with self._deciding:
                if self._failed_attempts >= CONSECUTIVE_FAILURES:
                    await self._wait_for_answer(failure)

    async def is_request_error(self, failure: RequestFailure) -> bool:
        """Whether a request is itself at fault that has used up its attempts, or was rejected.

        Returns:
            True: it fails alone. False: the server was down and is back; ask again.

        Raises:
            RequestError: the server is down for good, or answers nothing of what it is asked.
        """
        async with self._deciding:
            if failure.fault in ("request", "refusal"):
                await self._check_that_anything_works()
                return True
            if self._back_at > failure.sent_at:
                return False
            others_are_answered = self._answered_at > failure.sent_at
            if not others_are_answered and not await self._wait_for_answer(failure):
                return False
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise RequestError(
                    f"{failure.message}; {self._failures} requests failed one after the other, and "
                    f"none was answered between them; {GO_ON}"
                )
            return True

    async def _check_that_anything_works(self) -> None:
        """Where the very first requests are rejected, it may be the settings that are wrong.

        And where one after the other is, the server may have changed its mind about all of them.
        """
        self._rejections += 1
        if self.ever_answered and self._rejections < MOST_FAILURES:
            return
        failure = await self._probe()
        if failure is None:
            self._answered_at = _now()
            self._rejections = 0
        elif failure.fault != "passing":
            raise RequestError(
                f"{failure.message}; it says so even to a short question; {failure.advice}"
            )

    async def _wait_for_answer(self, failure: RequestFailure) -> bool:
        """Ask short questions until one is answered: True when it was the first."""
        self._limiter.shut()
        began, number = _now(), 0
        while failed := await self._probe_failure():
            number += 1
            patience_s = self._patience_for(failed)
            if number == 1:
                say(f"{failure.message}; waiting for it, {duration(patience_s)} at most")
            left_s = patience_s - (_now() - began)
            if left_s <= 0:
                raise RequestError(f"{failure.message}; {GO_ON}")
            await self._sleep(min(jittered_wait_s(number), left_s))
        self._answered_at = _now()
        self._busy_since = None
        self._failed_attempts = 0
        if number:
            self._back_at = self._answered_at
            self._limiter.limit.reset_after_outage()
        self._limiter.reopen()
        return not number

    def _patience_for(self, failure: RequestFailure) -> float:
        """How long, in seconds, a server that fails so may answer nothing."""
        if failure.busy:
            return self._patience_s
        return min(self._patience_s, PATIENCE_S if self.ever_answered else FIRST_PATIENCE_S)

    async def _probe_failure(self) -> RequestFailure | None:
        """What went wrong with a short question, where that may pass; None: it was answered."""
        await self._sleep(self._limiter.pause_left_s)
        failure = await self._probe()
        if failure is None or failure.fault == "request":
            return None
        if failure.fault == "refusal":
            raise RequestError(f"{failure.message}; {failure.advice}")
        if failure.fault == "run":
            raise RequestError(failure.message)
        if too_long := self.patience_exceeded(failure):
            raise RequestError(too_long)
        self._limiter.pause(failure.retry_after_s or 0.0)
        return failure

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._meter.waits_until = time.time() + seconds
            await asyncio.sleep(seconds)


def _now() -> float:
    """Seconds on the clock of the event loop, as in `RateLimiter`."""
    return asyncio.get_running_loop().time()
