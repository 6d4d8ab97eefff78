"""Is it the server or the request? Asked when a request has used up its attempts.

A server that is down ends the run, after some patience; a request that it cannot answer fails
alone. One is told from the other by whether anything else is answered, and where nothing else is
being asked, by a short question of our own.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable

from clair_apo.errors import RequestError
from clair_apo.llm.failures import GO_ON, RequestFailure
from clair_apo.llm.limits import Gate
from clair_apo.llm.meter import Meter
from clair_apo.progress import say

PATIENCE_S = 300.0
"""How long a server that answered before may be down before the run ends."""
MOST_FAILURES = 20
"""So many requests may fail one after the other, with no answer between them."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


def jittered_wait_s(attempt: int) -> float:
    """How long to wait after the `attempt`-th failure: anything up to a doubling bound."""
    return random.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1)))


class ServerHealth:
    """What is known about whether a server answers.

    Args:
        gate: shut while the server is down.
        meter: shows until when nothing is sent.
        probe: asks the short question; returns what went wrong, None when it was answered.
    """

    def __init__(
        self, gate: Gate, meter: Meter, probe: Callable[[], Awaitable[RequestFailure | None]]
    ) -> None:
        self._gate, self._meter, self._probe = gate, meter, probe
        self._answered_at = -math.inf
        self._back_at = -math.inf
        self._failures = 0
        self._judging = asyncio.Lock()

    @property
    def ever_answered(self) -> bool:
        """Whether the server has answered anything."""
        return self._answered_at > -math.inf

    def answered(self) -> None:
        """A request was answered."""
        self._answered_at = time.monotonic()
        self._failures = 0

    async def is_to_blame_on(self, failure: RequestFailure, since: float) -> bool:
        """Whether a request that failed for good is itself at fault.

        Args:
            failure: its last.
            since: monotonic time of its first attempt.

        Returns:
            True: it fails alone. False: the server was down and is back; ask again.

        Raises:
            RequestError: the server is down for good, or answers nothing of what it is asked.
        """
        async with self._judging:
            if failure.fault == "row":
                await self._check_that_anything_works()
                return True
            if self._back_at > since:
                return False
            if self._answered_at <= since and not await self._outlast(failure):
                return False
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise RequestError(
                    f"{failure.told}; {self._failures} requests failed one after the other, and "
                    f"none was answered between them; {GO_ON}"
                )
            return True

    async def _check_that_anything_works(self) -> None:
        """Where the very first requests are rejected, it may be the settings that are wrong."""
        if self.ever_answered:
            return
        failure = await self._probe()
        if failure is None:
            self._answered_at = time.monotonic()
        elif failure.fault != "passing":
            raise RequestError(f"{failure.told}; it says so even to a short question; {GO_ON}")

    async def _outlast(self, failure: RequestFailure) -> bool:
        """Ask short questions until one is answered: True when it was the first."""
        self._gate.shut()
        # a server that never answered is more likely the wrong one than one that is down
        patience_s = PATIENCE_S if self.ever_answered or failure.limited else 0.0
        since = time.monotonic()
        number = 0
        while True:
            number += 1
            last = await self._probe()
            if last is None or last.fault == "row":
                break
            if last.fault == "run":
                raise RequestError(last.told)
            if time.monotonic() - since >= patience_s:
                raise RequestError(f"{failure.told}; {GO_ON}")
            if number == 1:
                say(f"{last.told}; waiting for it, {patience_s:.0f} seconds at most")
            asked_for_s = last.retry_after_s or 0.0
            patience_s += asked_for_s
            await self._rest(max(asked_for_s, jittered_wait_s(number)))
        self._answered_at = time.monotonic()
        if number > 1:
            self._back_at = self._answered_at
            self._gate.limit.begin_again()
        self._gate.reopen()
        return number == 1

    async def _rest(self, seconds: float) -> None:
        self._meter.waits_until = time.time() + seconds
        await asyncio.sleep(seconds)
