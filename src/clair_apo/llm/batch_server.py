"""The endpoints of the OpenAI Batch API: files and batches, with retries and errors for people."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx2
import openai
import stamina
from openai.types import Batch

from clair_apo.errors import RequestError
from clair_apo.llm.batch_files import ENDPOINT
from clair_apo.llm.chat import ModelSpec
from clair_apo.llm.failures import GO_ON, FailureReader, RequestFailure
from clair_apo.llm.keys import find_key, host_of

T = TypeVar("T")

ATTEMPTS = 10
"""How often a call is tried before the run stops; with the waits between them, about 5 minutes."""
LONGEST_WAIT_S = 60.0
UPLOAD_TIMEOUT_S = 600.0
"""Seconds that a file of 200 MB may take."""
SHARD = "clair_apo_shard"
"""The key in a batch's metadata under which our name for it stands."""


QUEUE_FULL = "token_limit_exceeded"
"""The code of an error that says that the account has too many requests in batches already."""


class NotNowError(Exception):
    """The server does not begin a batch now.

    Attributes:
        sentence: why, for people.
        full: its queue has no room for this batch; otherwise it limits the rate of calls.
        retry_after_s: how long it asks to be left alone; None where it does not say.
    """

    def __init__(self, sentence: str, *, full: bool, retry_after_s: float | None) -> None:
        super().__init__(sentence)
        self.sentence, self.full, self.retry_after_s = sentence, full, retry_after_s


class BatchServer:
    """A server with `/files` and `/batches`.

    Args:
        spec: `base_url` must be set.

    Raises:
        RequestError: there is no key for the server.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.host = host_of(spec)
        self.model = spec.model
        key = find_key(spec)
        self._failures = FailureReader(spec, key)
        self._client = openai.OpenAI(
            base_url=spec.base_url,
            api_key=key or "none",  # the client insists on a key; local servers ignore it
            timeout=UPLOAD_TIMEOUT_S,
            max_retries=0,
        )

    def upload(self, path: Path) -> str:
        """Hand over an input file; returns the server's name for it."""

        def send() -> str:
            with path.open("rb") as file:
                return self._client.files.create(file=(path.name, file), purpose="batch").id

        return self._persistently(send)

    def create(self, file_id: str, shard: str) -> Batch:
        """Begin a batch, once.

        Args:
            file_id: the uploaded input.
            shard: our name for it, in the metadata.

        Raises:
            NotNowError: the server does not take it now.
            RequestError: it takes none at all.
        """
        sent = False

        def begin() -> Batch:
            nonlocal sent
            # what a lost connection kept from us may have begun all the same
            there = self.find(shard) if sent else None
            sent = True
            try:
                return there or self._client.batches.create(
                    input_file_id=file_id,
                    endpoint=ENDPOINT,
                    completion_window="24h",
                    metadata={SHARD: shard},
                )
            except openai.APIStatusError as error:
                raise self._not_now(error) or error from None

        return self._persistently(begin)

    def _not_now(self, error: openai.APIStatusError) -> NotNowError | None:
        failure = self._failures.read(error)
        full = QUEUE_FULL in (error.code, error.type)
        if not full and not failure.limited:
            return None
        return NotNowError(failure.sentence, full=full, retry_after_s=failure.retry_after_s)

    def find(self, shard: str) -> Batch | None:
        """The batch that has our name in its metadata, None where there is none."""

        def search() -> Batch | None:
            for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(SHARD) == shard:
                    return batch
            return None

        return self._persistently(search)

    def retrieve(self, id: str) -> Batch:
        """How far a batch is."""
        return self._persistently(lambda: self._client.batches.retrieve(id), missing=f"batch {id}")

    def cancel(self, id: str) -> Batch:
        """End a batch; what was answered until then stays, and is billed."""
        return self._persistently(lambda: self._client.batches.cancel(id), missing=f"batch {id}")

    def download(self, file_id: str, path: Path) -> None:
        """Fetch an output or error file."""

        def receive() -> None:
            with self._client.files.with_streaming_response.content(file_id) as reply:
                reply.stream_to_file(path)

        self._persistently(receive, missing=f"file {file_id}")

    def _persistently(self, call: Callable[[], T], *, missing: str = "") -> T:
        """Call, and again while what went wrong may pass.

        Args:
            call: asks the server.
            missing: what a status of 404 says is not there.
        """
        attempts = stamina.retry_context(
            on=_may_pass,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=1.0,
            wait_max=LONGEST_WAIT_S,
        )
        try:
            for attempt in attempts:
                with attempt:
                    return self._once(call, missing)
        except RequestFailure as failure:
            told = failure.sentence
            raise RequestError(told if GO_ON in told else f"{told}; {GO_ON}") from None
        raise AssertionError("a loop of attempts ends with a result or an error")

    def _once(self, call: Callable[[], T], missing: str) -> T:
        try:
            return call()
        except openai.NotFoundError as error:
            if not missing:
                raise RequestError(
                    f"{self.host} has no Batch API below {self._client.base_url} ({error}); is "
                    "base_url right? Mode `live` asks it request by request"
                ) from None
            raise RequestError(
                f"{self.host} knows no {missing}: is it another account's key? If it is gone for "
                "good, let `clair-apo batches RUN --forget ID` forget it; its requests are asked "
                "again then"
            ) from None
        except httpx2.HTTPError as error:  # while a file comes in: the client has let go by then
            raise RequestFailure("passing", f"{self.host} broke off a reply ({error})") from None
        except (openai.OpenAIError, OSError) as error:
            raise self._failures.read(error) from None


def _may_pass(error: Exception) -> bool | float:
    if not isinstance(error, RequestFailure) or error.fault != "passing":
        return False
    return error.retry_after_s or True
