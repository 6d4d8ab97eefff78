"""An OpenAI-compatible server: vLLM, `transformers serve`, a hosted model.

Several requests are under way at once. What may pass (no connection, time-out, 408, 409, 429, 5xx)
is tried again with growing, jittered waits; what concerns one request alone (400, 422) fails that
request; everything else ends the run with one sentence. The key never leaves this module.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from threading import Event, Thread
from urllib.parse import urlsplit

import openai
import stamina

from clair_apo.errors import RequestError
from clair_apo.llm.chat import Answered, ChatRequest, ModelSpec

ATTEMPTS = 5
"""How often a request is tried before the run stops."""

# retries show where logging is set up; without that they would stand bare on standard error
logging.getLogger("stamina").addHandler(logging.NullHandler())

_OF_ONE_REQUEST = (openai.BadRequestError, openai.UnprocessableEntityError)
_PASSING_STATUS = (408, 409, 429)
_GO_ON = "what was answered is kept: run the same command again to go on"


class HttpChat:
    """Asks a server for chat completions.

    Args:
        spec: `base_url` must be set; `model` is sent as it is.

    Raises:
        RequestError: the server is not on this machine and there is no key for it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        url = urlsplit(spec.base_url or "")
        self._where = f"{url.hostname}" + (f":{url.port}" if url.port else "")
        self._key = find_key(spec)
        self._spec = spec
        self._client = openai.OpenAI(
            base_url=spec.base_url,
            api_key=self._key or "none",  # the client insists on a key; local servers ignore it
            timeout=spec.timeout_s,
            max_retries=0,
        )

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[Answered]:
        """Answer the requests, each as soon as the server has.

        When one of them ends the run, no more are sent, and those under way are waited for: they
        are paid for. When the caller leaves (Ctrl+C), nothing is waited for.

        Raises:
            RequestError: the server cannot be reached, refuses the key, or keeps failing.
        """
        asking = _Asking(self, requests)
        workers = min(self._spec.max_in_flight, len(requests))
        try:
            for _ in range(workers):
                # daemons: a process that was told to stop does not wait for a slow server
                Thread(target=asking.work, daemon=True).start()
            yield from asking.results(workers)
        finally:
            asking.stop.set()

    def ask(self, request: ChatRequest, stop: Event) -> Answered:
        """Ask once, and again while what went wrong may pass and nobody says stop.

        Raises:
            RequestError: this server cannot be asked.
        """
        retry = stamina.RetryingCaller(
            attempts=ATTEMPTS, timeout=None, wait_initial=0.5, wait_max=30.0
        ).on(lambda error: not stop.is_set() and _may_pass(error))
        try:
            return retry(self._send, request, stop)
        except _OF_ONE_REQUEST as error:
            return Answered(request, None, f"{self._where}: {self._without_key(error)}")
        except openai.APIStatusError as error:
            raise RequestError(self._refusal(error)) from None
        except openai.APITimeoutError:
            raise RequestError(
                f"{self._where} did not answer {ATTEMPTS} times within {self._spec.timeout_s:g} "
                f"seconds (timeout_s); {_GO_ON}"
            ) from None
        except openai.APIConnectionError as error:
            reason = self._without_key(error.__cause__ or error)
            raise RequestError(
                f"{self._where} could not be reached {ATTEMPTS} times ({reason}); {_GO_ON}"
            ) from None
        except openai.OpenAIError as error:
            raise RequestError(f"{self._where}: {self._without_key(error)}") from None

    def _send(self, request: ChatRequest, stop: Event) -> Answered:
        if stop.is_set():
            raise RequestError("stopped")  # while this request waited for its next attempt
        sampling = request.sampling
        reply = self._client.chat.completions.with_raw_response.create(
            model=self._spec.model,
            messages=[message.model_dump() for message in request.messages],  # type: ignore[misc]
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        try:
            response = json.loads(reply.text)
        except ValueError:
            response = None
        if not isinstance(response, dict):
            raise RequestError(
                f"{self._where} replied with something else than a JSON object, beginning "
                f"{reply.text[:60]!r}; is base_url {self._spec.base_url!r} right?"
            )
        return Answered(request, response)

    def _refusal(self, error: openai.APIStatusError) -> str:
        if error.status_code in (401, 403):
            return (
                f"{self._where} refused the key in ${self._spec.api_key_env} ({error.status_code})"
            )
        if error.status_code == 404:
            return f"{self._where} knows no model {self._spec.model!r} (404), or base_url is wrong"
        times = f"failed {ATTEMPTS} times" if _may_pass(error) else "cannot be asked"
        return f"{self._where} {times}: {self._without_key(error)}; {_GO_ON}"

    def _without_key(self, error: BaseException) -> str:
        text = str(error)
        if isinstance(error, openai.APIStatusError) and " - " not in text:
            text += f" - {error.response.text}"  # the client reads one of the shapes in use
        return " ".join((text.replace(self._key, "***") if self._key else text).split())[:300]


class _Asking:
    """The requests of one call, worked off by several threads."""

    def __init__(self, chat: HttpChat, requests: Sequence[ChatRequest]) -> None:
        self.stop = Event()
        self._chat = chat
        self._to_ask: SimpleQueue[ChatRequest] = SimpleQueue()
        self._done: SimpleQueue[Answered | Exception | None] = SimpleQueue()
        for request in requests:
            self._to_ask.put(request)

    def work(self) -> None:
        """Ask one request after the other until there are none or one ends the run."""
        while not self.stop.is_set():
            try:
                request = self._to_ask.get_nowait()
            except Empty:
                break
            try:
                self._done.put(self._chat.ask(request, self.stop))
            except Exception as error:  # carried to the thread that waits for the results
                self._done.put(error)
                self.stop.set()
        self._done.put(None)

    def results(self, workers: int) -> Iterator[Answered]:
        """What the workers found, until all of them are through; then the first error if any."""
        failure: Exception | None = None
        while workers:
            result = self._done.get()
            if result is None:
                workers -= 1
            elif isinstance(result, Exception):
                failure = failure or result
            else:
                yield result
        if failure:
            raise failure


def find_key(spec: ModelSpec) -> str | None:
    """The key for the server of a spec; None where it needs none.

    Raises:
        RequestError: it needs one and there is none, or what there is cannot be one.
    """
    key = os.environ.get(spec.api_key_env, "").strip()
    host = urlsplit(spec.base_url or "").hostname or ""
    if not key and not _on_this_machine(host):
        raise RequestError(
            f"no key for {host}: set the environment variable {spec.api_key_env}, or name another "
            "one with api_key_env"
        )
    if not (key.isascii() and key.isprintable()):
        raise RequestError(f"${spec.api_key_env} holds characters that no key has")
    return key or None


def _may_pass(error: Exception) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _PASSING_STATUS or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def _on_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
