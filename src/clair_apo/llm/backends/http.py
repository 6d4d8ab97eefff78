"""An OpenAI-compatible server: vLLM, `transformers serve`, a hosted model.

Many requests are under way at once, on an event loop in a thread of its own; `rate_limits` decides
how many. What may pass is tried again with growing, jittered waits; what concerns one request alone
fails that request; everything else ends the run with one sentence. The key never leaves
this module.

HttpChat (the caller's thread) -> _Server (the loop) -> RateLimiter, ServerHealth -> client
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import httpx2
import stamina

from clair_apo.errors import RequestError
from clair_apo.llm.backends.connection import Connection
from clair_apo.llm.backends.endpoints import Endpoint
from clair_apo.llm.backends.http_errors import FailureReader, RequestFailure
from clair_apo.llm.backends.rate_limits import RateLimiter
from clair_apo.llm.backends.server_health import Attempts, ServerHealth, jittered_wait_s
from clair_apo.llm.pricing import Meter
from clair_apo.llm.responses import count_of
from clair_apo.llm.spec import GO_ON, ModelSpec
from clair_apo.llm.types import ChatRequest, ModelReply, RawResponse
from clair_apo.records import Message

# retries show where logging is set up; without that they would stand bare on standard error
logging.getLogger("stamina").addHandler(logging.NullHandler())


class HttpChat:
    """Asks a server for chat completions; a `StreamingChat`.

    An answer that was collected keeps its place among those in flight until it is settled, so a
    killed process asks again at most for what was in flight.

    Args:
        spec: `base_url` must be set; `model` is sent as it is.
        meter: where what is in flight, the limit and the waits are shown.
        ended: returns why the server will never answer again, where that is known; else nothing.

    Raises:
        RequestError: the server is not on this machine and there is no key for it, or what the
            environment says of keys, proxies or certificates cannot be used.
    """

    def __init__(
        self, spec: ModelSpec, meter: Meter | None = None, ended: Callable[[], str] = str
    ) -> None:
        connection = Connection.of(spec)
        self.in_flight_limit = spec.max_in_flight
        self._results: SimpleQueue[ModelReply | Exception] = SimpleQueue()
        self._outstanding = 0
        self._server = _Server(connection, meter or Meter(), self._results, ended)
        self._loop = asyncio.new_event_loop()
        # a daemon: a process that was told to stop does not wait for a slow server
        self._thread = Thread(target=self._run, name="requests", daemon=True)
        self._thread.start()

    def submit(self, request: ChatRequest, attempt: int = 1) -> None:
        """Take a request; it is sent as soon as the limits allow. Returns at once.

        Args:
            request: what to ask.
            attempt: which one it is; after an answer that broke off the next waits a little.
        """
        self._outstanding += 1
        self._loop.call_soon_threadsafe(self._server.start, request, attempt)

    def collect(self, timeout_s: float | None = None) -> list[ModelReply]:
        """Wait for at least one answer, or for `timeout_s` seconds, and return all that are there.

        Where nothing is outstanding the list is empty, at once. When the run must stop, no more is
        sent, and what is under way is waited for and returned first: it is paid for.

        Raises:
            RequestError: the server cannot be reached, refuses the key, or keeps failing.
        """
        answered: list[ModelReply] = []
        try:
            while len(answered) < self._outstanding:
                result = self._results.get(not answered, timeout_s)
                if isinstance(result, Exception):
                    self._results.put(result)  # for the next call, and all after it
                    if not answered:
                        raise result from None
                    break
                answered.append(result)
        except Empty:
            pass
        self._outstanding -= len(answered)
        return answered

    def settle(self, count: int) -> None:
        """Say that so many of the collected are stored: their places are free for others."""
        self._loop.call_soon_threadsafe(self._server.settle, count)

    def stop(self) -> None:
        """Send nothing more; what is under way is still collected, and then `collect` raises."""
        self._loop.call_soon_threadsafe(self._server.stop, RequestError("stopped"))

    def close(self) -> None:
        """Send nothing more and wait for nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._server.close())
        finally:
            self._loop.close()


class _Server:
    """The part on the event loop: nothing of it is called from another thread."""

    def __init__(
        self,
        connection: Connection,
        meter: Meter,
        results: "SimpleQueue[ModelReply | Exception]",
        ended: Callable[[], str],
    ) -> None:
        spec = connection.spec
        self._server_ended = ended
        self._spec, self._meter, self._results = spec, meter, results
        self._failures = FailureReader(connection)
        self._endpoint = Endpoint.of(spec)
        self._mask = connection.mask
        self._limiter = RateLimiter(
            spec.max_in_flight, spec.requests_per_minute, spec.tokens_per_minute
        )
        self._health = ServerHealth(self._limiter, meter, self._probe, spec.patience_s)
        self._client = connection.many_at_once()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[Any] | None] = set()
        self._end: Exception | None = None
        self._show()

    def start(self, request: ChatRequest, attempt: int) -> None:
        """Begin to ask a request."""
        if self._end is None:
            task = asyncio.get_running_loop().create_task(self._deliver(request, attempt))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def settle(self, count: int) -> None:
        """Free the places of answers that are stored."""
        self._limiter.release(count)
        self._show()

    async def close(self) -> None:
        """Cancel everything that is under way."""
        self._end = self._end or RequestError("closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    async def _deliver(self, request: ChatRequest, attempt: int) -> None:
        """Hand out the answer to one request, or the reason why it has none."""
        result = None
        if attempt > 1:
            await asyncio.sleep(jittered_wait_s(attempt - 1))
        try:
            while result is None and self._end is None:
                result = await self._with_attempts(request)
        except RequestError as error:
            self.stop(error)
        if result is not None:
            self._results.put(result)

    def stop(self, error: Exception) -> None:
        """Send nothing more; what is under way goes on."""
        if self._end is None:
            self._end = error
            for task in self._tasks - self._sending - {asyncio.current_task()}:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.stop(error)  # a mistake of ours: it comes out where the answers come out
        if self._end and not self._tasks:
            self._results.put(self._end)  # all that was under way has been handed out

    async def _with_attempts(self, request: ChatRequest) -> ModelReply | None:
        """Ask, and again while what went wrong may pass; None: to be asked again, or stopped.

        Raises:
            RequestError: the run must stop.
        """
        before = Attempts()

        def wait_s(error: Exception) -> float | bool:
            if self._end or not isinstance(error, RequestFailure):
                return False
            seconds = before.wait_s(error)
            self._meter.retried += seconds is not None
            return False if seconds is None else seconds

        try:
            async for attempt in stamina.retry_context(wait_s, attempts=None, timeout=None):
                with attempt:
                    return ModelReply(request, await self._when_allowed(request, attempt.num))
        except RequestFailure as failure:
            if self._end is None and await self._health.is_request_error(failure):
                self._limiter.reclaim()  # until it is settled, as any other
                return ModelReply(request, None, failure.message)
        return None

    async def _when_allowed(self, request: ChatRequest, attempt: int) -> RawResponse:
        reserved = self._most_tokens(request)
        sent_at = await self._limiter.acquire(reserved, first=attempt > 1)
        self._show()
        try:
            response = await self._send(request)
        except RequestFailure as failure:
            failure.attempts, failure.sent_at = attempt, sent_at
            await self._handle_failure(failure)
            raise
        self._health.answered()
        self._limiter.answered(sent_at, reserved, _tokens_used(response, reserved))
        self._show()
        return response

    async def _handle_failure(self, failure: RequestFailure) -> None:
        """Let all others know of a failed attempt; returns when there may be another."""
        if failure.fault == "run":
            self.stop(RequestError(failure.sentence))  # before its place is given away
        too_long = self._health.patience_exceeded(failure)
        if too_long and self._end is None:
            self.stop(RequestError(too_long))
        if failure.retry_after_s and not too_long:
            self._limiter.pause(failure.retry_after_s)
            self._meter.waits_until = time.time() + failure.retry_after_s
        self._limiter.failed(failure.sent_at, failure.overloaded)
        self._show()
        if failure.fault == "passing" and self._end is None:
            await self._health.attempt_failed(failure)

    async def _send(self, request: ChatRequest) -> RawResponse:
        """One attempt.

        Raises:
            RequestFailure: it brought no answer.
        """
        task = asyncio.current_task()
        self._sending.add(task)
        try:
            async with asyncio.timeout(self._spec.timeout_s):  # also ends a reply that trickles
                reply = await self._client.post(
                    self._endpoint.path,
                    cast_to=httpx2.Response,
                    body=self._endpoint.body(request, self._spec.model),
                )
            response: RawResponse | None = self._mask.value(_json_object(reply.content))
        except Exception as error:  # the client lets through what many libraries below it raise
            if why := self._server_ended():
                raise RequestFailure("run", f"{why}; {GO_ON}") from None
            raise self._failures.read(error) from None
        finally:
            self._sending.discard(task)
        if response is not None and (failure := self._failures.of_body(response)):
            raise failure
        answer = self._endpoint.read(response) if response is not None else None
        if answer is None:
            text = reply.content.decode("utf-8", "replace")
            raise self._failures.of_other_reply(text, self._health.ever_answered)
        return answer

    async def _probe(self) -> RequestFailure | None:
        """Ask a short question, with the settings of all others; what went wrong if anything."""
        question = Message(role="user", content="Say: yes")
        sampling = self._spec.sampling
        try:
            await self._send(
                ChatRequest(model=self._spec.model, messages=(question,), sampling=sampling)
            )
        except RequestFailure as failure:
            return failure
        return None

    def _most_tokens(self, request: ChatRequest) -> float:
        """An estimate of the tokens that a request costs at most."""
        if self._spec.tokens_per_minute is None:
            return 0.0
        characters = sum(len(message.content) for message in request.messages)
        return characters / 4 + request.sampling.max_tokens

    def _show(self) -> None:
        self._meter.in_flight = self._limiter.in_flight
        self._meter.limit = self._limiter.limit.value


def _json_object(content: bytes) -> RawResponse | None:
    """The JSON object that a reply consists of; None for anything else.

    Raises:
        RecursionError: it is nested too deeply.
    """
    try:
        response = json.loads(content)
    except ValueError:
        return None
    return response if isinstance(response, dict) else None


def _tokens_used(response: RawResponse, otherwise: float) -> float:
    usage = response.get("usage")
    total = count_of(usage.get("total_tokens")) if isinstance(usage, dict) else 0
    return float(total) or otherwise
