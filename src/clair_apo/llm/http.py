"""An OpenAI-compatible server: vLLM, `transformers serve`, a hosted model.

Several requests are under way at once. What may pass (no connection, time-out, 408, 409, 429, 5xx)
is tried again with growing, jittered waits; what concerns one request alone (400, 422) fails that
request; everything else ends the run with one sentence. The key never leaves this module.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from ipaddress import ip_address
from urllib.parse import urlsplit

import openai
import stamina

from clair_apo.errors import RequestError
from clair_apo.llm.chat import Answered, ChatRequest, ModelSpec

ATTEMPTS = 5
"""How often a request is tried before the run stops."""

_PASSING = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)
_OF_ONE_REQUEST = (openai.BadRequestError, openai.UnprocessableEntityError)


class HttpChat:
    """Asks a server for chat completions.

    Args:
        spec: `base_url` must be set; `model` is sent as it is.

    Raises:
        RequestError: the server is not on this machine and there is no key for it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        url = urlsplit(spec.base_url or "")
        self._where = f"{url.hostname or spec.base_url}" + (f":{url.port}" if url.port else "")
        self._key = find_key(spec)
        self._spec = spec
        self._client = openai.OpenAI(
            base_url=spec.base_url, api_key=self._key, timeout=spec.timeout_s, max_retries=0
        )

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[Answered]:
        """Answer the requests, each as soon as the server has.

        Raises:
            RequestError: the server cannot be reached, refuses the key, or keeps failing.
        """
        pool = ThreadPoolExecutor(self._spec.max_in_flight)
        try:
            waiting = [pool.submit(self._ask, request) for request in requests]
            for future in as_completed(waiting):
                yield future.result()
        finally:
            # left early (an error, Ctrl+C): what has not been sent is not sent any more
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: ChatRequest) -> Answered:
        try:
            return self._ask_patiently(request)
        except _OF_ONE_REQUEST as error:
            return Answered(request, None, f"{self._where}: {self._without_key(error)}")
        except openai.APIStatusError as error:
            raise RequestError(self._refusal(error)) from None
        except openai.APIConnectionError as error:
            raise RequestError(
                f"{self._where} did not answer {ATTEMPTS} times ({error.__cause__ or error}); "
                "what was answered is kept: run the same command again to go on"
            ) from None
        except openai.OpenAIError as error:
            raise RequestError(f"{self._where}: {self._without_key(error)}") from None

    @stamina.retry(on=_PASSING, attempts=ATTEMPTS, timeout=None, wait_initial=0.5, wait_max=30.0)
    def _ask_patiently(self, request: ChatRequest) -> Answered:
        sampling = request.sampling
        response = self._client.chat.completions.create(
            model=self._spec.model,
            messages=[message.model_dump() for message in request.messages],  # type: ignore[misc]
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        return Answered(request, response.model_dump(mode="json"))

    def _refusal(self, error: openai.APIStatusError) -> str:
        if error.status_code in (401, 403):
            return (
                f"{self._where} refused the key in ${self._spec.api_key_env} ({error.status_code})"
            )
        if error.status_code == 404:
            return f"{self._where} knows no model {self._spec.model!r} (404), or base_url is wrong"
        return (
            f"{self._where} failed {ATTEMPTS} times: {self._without_key(error)}; "
            "what was answered is kept: run the same command again to go on"
        )

    def _without_key(self, error: Exception) -> str:
        return " ".join(str(error).replace(self._key, "***").split())[:300]


def find_key(spec: ModelSpec) -> str:
    """The key for a server, from the environment; a placeholder for servers on this machine.

    Raises:
        RequestError: the server is elsewhere and the variable is not set.
    """
    key = os.environ.get(spec.api_key_env, "")
    if key:
        return key
    host = urlsplit(spec.base_url or "").hostname or ""
    if _on_this_machine(host):
        return "none"  # the client insists on a key; local servers ignore it
    raise RequestError(
        f"no key for {host}: set the environment variable {spec.api_key_env}, or name another "
        "one with api_key_env"
    )


def _on_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
