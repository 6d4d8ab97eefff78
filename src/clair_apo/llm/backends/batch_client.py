"""The client of the OpenAI Batch API: its endpoints, and what a batch that has ended answered.

Calls are repeated while what goes wrong may pass; what does not pass is a `RequestError`.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai
import stamina
from openai.types import Batch

from clair_apo.console import duration, wait_in_words
from clair_apo.errors import RequestError
from clair_apo.llm.backends.batch_files import ENDPOINT, BatchResult, read_results
from clair_apo.llm.backends.connection import Connection
from clair_apo.llm.backends.http_errors import FailureReader, RequestFailure
from clair_apo.llm.responses import is_completion
from clair_apo.llm.spec import GO_ON, ModelSpec, host_of
from clair_apo.llm.store import RequestStore
from clair_apo.llm.store_schema import StoredAnswer, StoredBatch
from clair_apo.llm.types import ChatRequest, Completion, ModelReply

ATTEMPTS = 10
"""How often a call is tried before the run stops; with the waits between them, about 5 minutes."""
LONGEST_WAIT_S = 60.0
UPLOAD_TIMEOUT_S = 600.0
"""Seconds that a file of 200 MB may take."""
NAME_KEY = "clair_apo_shard"
"""The key of our name for a batch in its metadata. Batches under way have it: never change it."""
QUEUE_FULL = "token_limit_exceeded"
"""The code of an error that says that the account has too many requests in batches already."""
STORED_TOGETHER = 1000
"""Answers per transaction."""

T = TypeVar("T")


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
        RequestError: there is no key for the server, or what the environment says of keys, proxies
            or certificates cannot be used.

    Attributes:
        mask: hides the key.
        patience_s: how long it may ask to be left alone before the run ends.
    """

    def __init__(self, spec: ModelSpec) -> None:
        connection = Connection.of(spec)
        self.host = host_of(spec)
        self.model = spec.model
        self.mask, self.patience_s = connection.mask, spec.patience_s
        self._failures = FailureReader(connection)
        self._client = connection.one_at_a_time(UPLOAD_TIMEOUT_S)

    def upload(self, path: Path) -> str:
        """Upload an input file; returns the server's name for it."""

        def send() -> str:
            with path.open("rb") as file:
                sent = self._client.files.create(file=(path.name, file), purpose="batch")
            return str(_checked(sent, "id").id)

        return self._with_retries(send)

    def create(self, file_id: str, name: str) -> Batch:
        """Begin a batch, once.

        Args:
            file_id: the uploaded input.
            name: our name for it, in the metadata.

        Raises:
            NotNowError: the server does not take it now.
            RequestError: it takes none at all.
        """
        sent = False

        def begin() -> Batch:
            nonlocal sent
            # what a lost connection kept from us may have begun all the same
            there = self.find(name) if sent else None
            sent = True
            try:
                return there or self._batch(
                    self._client.batches.create(
                        input_file_id=file_id,
                        endpoint=ENDPOINT,
                        completion_window="24h",
                        metadata={NAME_KEY: name},
                    )
                )
            except openai.APIStatusError as error:
                raise self._not_now(error) or error from None

        return self._with_retries(begin)

    def _not_now(self, error: openai.APIStatusError) -> NotNowError | None:
        failure = self._failures.read(error)
        full = QUEUE_FULL in (error.code, error.type)
        if not full and not failure.limited:
            return None
        return NotNowError(failure.sentence, full=full, retry_after_s=failure.retry_after_s)

    def find(self, name: str) -> Batch | None:
        """The batch that has our name in its metadata, None where there is none."""

        def search() -> Batch | None:
            for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(NAME_KEY) == name:
                    return self._batch(batch)
            return None

        return self._with_retries(search)

    def retrieve(self, id: str) -> Batch:
        """The server's record of a batch."""
        return self._with_retries(
            lambda: self._batch(self._client.batches.retrieve(id)), missing=f"batch {id}"
        )

    def cancel(self, id: str) -> Batch:
        """End a batch; what was answered until then stays, and is billed."""
        return self._with_retries(
            lambda: self._batch(self._client.batches.cancel(id)), missing=f"batch {id}"
        )

    def download(self, file_id: str, path: Path) -> None:
        """Fetch an output or error file."""

        def receive() -> None:
            with self._client.files.with_streaming_response.content(file_id) as reply:
                reply.stream_to_file(path)

        self._with_retries(receive, missing=f"file {file_id}")

    def _batch(self, batch: Batch) -> Batch:
        """The server's record of a batch, with the key masked."""
        _checked(batch, "id", "status")
        values = self.mask.value(batch.model_dump(mode="json", warnings=False))
        return Batch.construct(None, **values)

    def error_of_long_wait(
        self, sentence: str, seconds: float, at_least_s: float = 0.0
    ) -> RequestError | None:
        """The error that ends the run where the server asks for more time than it has.

        Args:
            sentence: what the server said.
            seconds: how long it asks to be left alone.
            at_least_s: patience that there is in any case.
        """
        patience_s = max(self.patience_s, at_least_s)
        if seconds <= patience_s:
            return None
        return RequestError(
            f"{sentence}; it asks for {wait_in_words(seconds)}, longer than patience_s allows "
            f"({duration(patience_s)}); {GO_ON} then, or with a larger patience_s"
        )

    def _with_retries(self, call: Callable[[], T], *, missing: str = "") -> T:
        """Call, and call again while what went wrong may pass.

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
                    return self._attempt(call, missing)
        except RequestFailure as failure:
            sentence = failure.sentence
            whole = sentence if GO_ON in sentence else f"{sentence}; {failure.advice}"
            raise RequestError(whole) from None
        raise AssertionError("a loop of attempts ends with a result or an error")

    def _attempt(self, call: Callable[[], T], missing: str) -> T:
        try:
            return call()
        except (RequestError, NotNowError):
            raise
        except openai.NotFoundError as error:
            if not missing:
                sentence = self._failures.read(error).sentence
                raise RequestError(
                    f"{self.host} has no Batch API below {self._client.base_url} ({sentence}); is "
                    "base_url right? Mode `live` asks it request by request"
                ) from None
            raise RequestError(
                f"{self.host} knows no {missing}: is it another account's key? If it is gone for "
                "good, let `clair-apo batches RUN --forget ID` forget it; its requests are asked "
                "again then"
            ) from None
        except Exception as error:  # the client lets through what many libraries below it raise
            failure = self._failures.read(error)
            if error_of_long_wait := self.error_of_long_wait(
                failure.sentence, failure.retry_after_s or 0.0
            ):
                raise error_of_long_wait from None
            raise failure from None


def _checked(answer: Any, *names: str) -> Any:
    """The server's answer, if it has the names that it must have.

    Raises:
        RemoteProtocolError: it is something else, or lacks a name.
    """
    for name in names:
        if not isinstance(getattr(answer, name, None), str):
            raise httpx2.RemoteProtocolError(f"the reply has no {name!r}")
    return answer


def _may_pass(error: Exception) -> bool | float:
    if not isinstance(error, RequestFailure) or error.fault != "passing":
        return False
    return error.retry_after_s or True


class BatchResults:
    """The answers of one batch that has ended, however it ended.

    Args:
        server: where its files are.
        store: keeps the answers that nobody waits for: they are paid for too.
        batch: as it was written down.
        wanted: the requests that somebody waits for, by key.

    Attributes:
        unanswered: the keys that it leaves without an answer of any kind, with the reason; what
            was not the request's fault can be asked in another batch.
    """

    def __init__(
        self,
        server: BatchServer,
        store: RequestStore,
        batch: StoredBatch,
        wanted: Mapping[str, ChatRequest],
    ) -> None:
        self._server, self._store, self._batch, self._wanted = server, store, batch, wanted
        self.unanswered = dict.fromkeys(batch.keys, f"the batch {batch.state} without an answer")

    def read(self, ended: Batch) -> Iterator[list[ModelReply]]:
        """What is wanted of its answers, in groups to be stored together.

        Raises:
            RequestError: a file cannot be fetched.
        """
        for file_id in (ended.output_file_id, ended.error_file_id):
            if not file_id:
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "results.jsonl"
                self._server.download(file_id, path)
                results = (
                    r for r in read_results(path, self._server.mask) if r.key in self.unanswered
                )
                while group := list(islice(results, STORED_TOGETHER)):
                    yield self._take(group)

    def _take(self, results: list[BatchResult]) -> list[ModelReply]:
        others: list[StoredAnswer] = []
        broken_off: list[StoredAnswer] = []
        mine = []
        for result in results:
            if result.passing:
                self.unanswered[result.key] = result.failure
                continue
            self.unanswered.pop(result.key, None)
            if request := self._wanted.get(result.key):
                mine.append(ModelReply(request, result.response, result.failure))
            elif result.response is not None and is_completion(result.response):
                stored = StoredAnswer(result.key, self._batch.model, result.response)
                (others if Completion.is_whole(result.response) else broken_off).append(stored)
        self._store.put_many(others, self._batch.run_id)
        self._store.put_broken_off(broken_off, self._batch.run_id)
        return mine
