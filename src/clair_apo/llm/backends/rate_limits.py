"""The rate limiter: how many requests a server gets at once and per minute; knows no HTTP.

LearningLimit:  how many are in flight
MinuteBudget:   requests per minute, tokens per minute
RateLimiter:    which request goes next, within these

Times are monotonic seconds. Only the RateLimiter needs an event loop, and is used from that alone.
"""

import asyncio
import math
import random
from collections import deque
from dataclasses import dataclass

START = 32
"""Requests in flight before anything is known about the server."""
_FAST_GROWTH = 3.0
"""Places per answer until the server first complains: four times as many each round trip."""
_SLOW_GROWTH = 1 / 16
"""Places per answer after that: a sixteenth more each round trip."""
_SHRINK = 0.7
_USUAL_ANSWER_S = 1.0
"""What one answer takes, before the first has come."""


class LearningLimit:
    """The number of requests that may be in flight, learned from what the server says.

    It starts low, grows with every answer while the places are used, and shrinks when the server
    is overloaded: once for all requests that were under way at that time, because what they
    complain of is one and the same crowd.

    Args:
        ceiling: it never grows past this.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._value = float(min(START, ceiling))
        self._known_good = math.inf  # the server complained of more than this
        self._shrunk_at = -math.inf

    @property
    def value(self) -> int:
        """The limit now, at least 1."""
        return int(self._value)

    def answered(self, in_flight: int) -> None:
        """Grow after an answer; `in_flight` counts that request too."""
        if in_flight < self.value:
            return  # more places would teach nothing
        step = (
            _FAST_GROWTH if self._value < self._known_good else max(_SLOW_GROWTH, 1 / self._value)
        )
        self._value = min(self._value + step, float(self._ceiling))

    def overloaded(self, sent_at: float, now: float) -> None:
        """Shrink after a refusal or a time-out of a request that was sent at `sent_at`."""
        if sent_at <= self._shrunk_at:
            return  # sent before the last cut: the cut is its answer
        self._value = self._known_good = max(1.0, self._value * _SHRINK)
        self._shrunk_at = now

    def reset_after_outage(self) -> None:
        """Begin low again after an outage, and grow quickly up to what was good."""
        self._value = min(self._value, float(START))


class MinuteBudget:
    """Requests or tokens per minute, spread evenly: no minute holds more, wherever it begins.

    What something costs is reserved before it is known and settled afterwards. One reservation may
    be larger than what is left: the next ones then wait the longer.

    Args:
        per_minute: None for no limit.
    """

    def __init__(self, per_minute: int | None) -> None:
        # a sixty-first part at hand, the others in sixty seconds
        self._per_s = per_minute / 61 if per_minute else math.inf
        self._at_hand = self._most = max(1.0, self._per_s)
        self._known_at = -math.inf

    def wait_s(self, cost: float, now: float) -> float:
        """Seconds until `cost` can be reserved; 0 when it can be now."""
        if self._per_s == math.inf:
            return 0.0
        gained = max(0.0, now - self._known_at) * self._per_s
        self._at_hand = min(self._most, self._at_hand + gained)
        self._known_at = now
        return max(0.0, min(cost, self._most) - self._at_hand) / self._per_s

    def take(self, cost: float) -> None:
        """Reserve; or, below zero, give back what was reserved and not used."""
        if self._per_s != math.inf:
            self._at_hand = min(self._most, self._at_hand - cost)


@dataclass
class _Waiting:
    tokens: float
    go: asyncio.Future[None]


class RateLimiter:
    """Admits requests to the server, first come first served, as the limits allow.

    A request that went through is in flight until `release` is called for it.

    Args:
        ceiling: most requests in flight.
        requests_per_minute: None for no limit.
        tokens_per_minute: prompt and answer together; None for no limit.
    """

    def __init__(
        self, ceiling: int, requests_per_minute: int | None, tokens_per_minute: int | None
    ) -> None:
        self.limit = LearningLimit(ceiling)
        self.in_flight = 0
        self._requests = MinuteBudget(requests_per_minute)
        self._tokens = MinuteBudget(tokens_per_minute)
        self._waiting: deque[_Waiting] = deque()
        self._is_shut = False
        self._opens_at = -math.inf
        self._paced_until = -math.inf
        self._answer_s = _USUAL_ANSWER_S
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, tokens: float, first: bool = False) -> float:
        """Wait for a place; returns the (monotonic) time at which it was given.

        Args:
            tokens: how many the request may cost, prompt and answer together.
            first: before all others that wait now.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(tokens, loop.create_future())
        if first:
            self._waiting.appendleft(waiting)
        else:
            self._waiting.append(waiting)
        self._admit()
        await waiting.go
        return loop.time()

    def release(self, count: int = 1) -> None:
        """Give up the places of so many requests."""
        self.in_flight -= count
        self._admit()

    def answered(self, sent_at: float, reserved: float, used: float) -> None:
        """Learn from an answer; the request keeps its place.

        Args:
            sent_at: what `acquire` returned.
            reserved: the tokens that `acquire` was called with.
            used: the tokens that it cost.
        """
        took = asyncio.get_running_loop().time() - sent_at
        self._answer_s += (took - self._answer_s) / 16
        self._tokens.take(used - reserved)
        self.limit.answered(self.in_flight)
        self._admit()

    def failed(self, sent_at: float, overloaded: bool) -> None:
        """Learn from a failure; the request gives up its place.

        Args:
            sent_at: what `acquire` returned.
            overloaded: the server has too much to do.
        """
        if overloaded:
            self.limit.overloaded(sent_at, asyncio.get_running_loop().time())
        self.release()

    def reclaim(self) -> None:
        """Take a place again that was given up, whatever the limit."""
        self.in_flight += 1

    def pause(self, seconds: float) -> None:
        """Admit no request for so long; then one after the other, as fast as they used to go."""
        now = asyncio.get_running_loop().time()
        # processes that were told the same come back at different times
        self._opens_at = max(self._opens_at, now + seconds + random.uniform(0, seconds / 20))
        self._paced_until = self._opens_at + self._answer_s

    @property
    def pause_left_s(self) -> float:
        """Seconds until the end of a pause; 0 when there is none."""
        return max(0.0, self._opens_at - asyncio.get_running_loop().time())

    def shut(self) -> None:
        """Admit no request until `reopen`."""
        self._is_shut = True

    def reopen(self) -> None:
        """Admit requests again after `shut`."""
        self._is_shut = False
        self._admit()

    def _admit(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting and not self._is_shut and self.in_flight < self.limit.value:
            first = self._waiting[0]
            if first.go.done():  # given up
                self._waiting.popleft()
                continue
            now = loop.time()
            wait_s = self._wait_s(first.tokens, now)
            if wait_s > 0:
                self._timer = loop.call_later(wait_s, self._admit)
                return
            self._waiting.popleft()
            self._requests.take(1)
            self._tokens.take(first.tokens)
            self.in_flight += 1
            first.go.set_result(None)
            if now < self._paced_until:
                self._opens_at = now + self._answer_s / self.limit.value

    def _wait_s(self, tokens: float, now: float) -> float:
        return max(
            self._opens_at - now,
            self._requests.wait_s(1, now),
            self._tokens.wait_s(tokens, now),
        )
