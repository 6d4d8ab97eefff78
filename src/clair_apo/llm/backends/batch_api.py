"""The OpenAI Batch API as a chat model: half the price, answers within a day, in any order.

Nothing is paid for twice: a batch is written down in the request store under a name of ours before
the server hears of it, and the name stands in the batch's metadata, so that after a kill at any
moment it is known whether the server has it. What a batch answered is kept even when the batch as
a whole failed, expired or was cancelled.

requests -> files -> batches under way -> (answers | failures | files again)
"""

import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from openai.types import Batch
from openai.types.batch_error import BatchError

from clair_apo.console import say
from clair_apo.errors import RequestError
from clair_apo.llm.backends.batch_client import QUEUE_FULL, BatchResults, BatchServer, NotNowError
from clair_apo.llm.backends.batch_files import BatchFile, batch_files_of, missing, write_batch_file
from clair_apo.llm.spec import GO_ON, ModelSpec, host_of
from clair_apo.llm.store import RequestStore
from clair_apo.llm.store_schema import CREATING, FORGOTTEN, READ, StoredBatch
from clair_apo.llm.types import ChatModel, ChatRequest, ModelReply
from clair_apo.records import digest

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
"""The Batch API's limits of one file, in requests and in bytes."""
TRIES = 3
"""In how many batches a request may be left without an answer before it counts as failed."""
SINGLE_REQUEST_TRIES = 20
"""How often a single request is offered to a queue that is full of others' requests."""
LIMITED_TRIES = 20
"""How often in a row the server may limit the rate of calls without saying for how long."""
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 300.0
WAIT_GROWTH = 1.5
LONGEST_PAUSE_S = 86_400.0
"""A server may ask for so long before it takes the next batch, whatever the patience: a batch may
take as long."""
ENDED = ("completed", "failed", "expired", "cancelled")


class BatchChat(ChatModel):
    """A model that answers many requests at once, through its `/files` and `/batches`.

    Args:
        spec: `base_url` must be set; `model` is sent as it is.
        store: where batches are written down.
        run_id: stands beside them.
    """

    wave = 100_000

    def __init__(self, spec: ModelSpec, store: RequestStore, run_id: str = "") -> None:
        self._spec = spec
        self._store = store
        self._run_id = run_id

    def plan(self, requests: Sequence[ChatRequest]) -> list[Sequence[ChatRequest]]:
        """All in one group: every batch is at the server before the first is waited for.

        What an earlier process left at the server comes first: it is paid for already, so money
        is set aside for it before anything else is sent.
        """
        ours = (b for b in self._store.batches() if b.open and b.host == host_of(self._spec))
        under_way = {key for batch in ours for key in batch.keys}
        return [sorted(requests, key=lambda request: request.key not in under_way)]

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        """Answer the requests, those of a batch as soon as it has ended.

        Batches that an earlier process left at the server are waited for first of all.

        Raises:
            RequestError: there is no key for the server, it takes no batches, or somebody
                cancelled one.
        """
        server = BatchServer(self._spec)
        job = _Job(server, self._store, self._run_id, {r.key: r for r in requests})
        try:
            yield from job.answers()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{server.host} goes on with the batches: run the same command again to "
                "fetch what they answered; `clair-apo batches RUN` shows and cancels them"
            ) from None


@dataclass(frozen=True)
class _Offer:
    """A file of requests that is to become a batch."""

    file: BatchFile
    file_id: str = ""
    """The server's name for its file, where it was handed over already."""
    batch: StoredBatch | None = None
    """As it was written down for an offer that the server did not take."""


class _Job:
    """Leads the requests of one call through batches."""

    def __init__(
        self, server: BatchServer, store: RequestStore, run_id: str, wanted: dict[str, ChatRequest]
    ) -> None:
        self._server, self._store, self._run_id = server, store, run_id
        self._wanted = wanted
        self._under_way: list[StoredBatch] = []
        self._held: deque[_Offer] = deque()
        self._full = False
        """The server's queue was full, and none of our batches was taken or ended since."""
        self._limited_tries = 0
        self._not_before = 0.0
        """When the next batch may be offered, in seconds since 1970."""
        self._wait_s = FIRST_WAIT_S
        self._alone = False
        """Only one batch of ours was at the server at the last poll."""
        self._unanswered: Counter[str] = Counter()
        self._single_request_tries = 0
        self._cancelled = 0
        self._last_line = ""

    def answers(self) -> Iterator[list[ModelReply]]:
        """Yield all answers, batch by batch."""
        self._take_up()
        covered = [key for batch in self._under_way for key in batch.keys]
        self._submit_all(missing(self._wanted, covered))
        while self._under_way or self._held:
            time.sleep(self._wait_s)
            self._wait_s = min(self._wait_s * WAIT_GROWTH, LONGEST_WAIT_S)
            yield from self._poll()
            self._offer_held()
        if self._cancelled:
            raise RequestError(
                f"a batch at {self._server.host} was cancelled with {self._cancelled} requests "
                "unanswered; what it answered is kept: run the same command again to ask for the "
                "rest"
            )

    def _take_up(self) -> None:
        """Go on with what an earlier process left at the server."""
        for batch in self._store.batches():
            ours = batch.open and batch.host == self._server.host
            if not ours or not any(key in self._wanted for key in batch.keys):
                continue
            if batch.state == CREATING:
                if batch.run_id != self._run_id:
                    continue  # another run may be about to begin it
                found = self._server.find(batch.name)
                if found is None:
                    self._store.update_batch(batch, FORGOTTEN)
                    continue
                batch = self._store.update_batch(batch, found.status, found.id)
            self._under_way.append(batch)
        if self._under_way:
            count = sum(len(batch.keys) for batch in self._under_way)
            say(f"{self._server.host} has batches of {count} requests from before: going on")

    def _submit_all(self, requests: Mapping[str, ChatRequest]) -> None:
        for file in batch_files_of(
            requests, self._server.model, most_requests=MOST_REQUESTS, most_bytes=MOST_BYTES
        ):
            if self._full or time.time() < self._not_before:
                self._held.append(_Offer(file))
            else:
                self._submit(_Offer(file))

    def _submit(self, offer: _Offer) -> None:
        file_id = offer.file_id or self._upload(offer.file)
        if offer.batch:
            batch = self._store.update_batch(offer.batch, CREATING)
        else:
            batch = self._new_batch(offer.file)
            self._store.add_batch(batch)
        try:
            begun = self._server.create(file_id, batch.name)
        except NotNowError as refusal:
            batch = self._store.update_batch(batch, FORGOTTEN)
            self._not_taken(_Offer(offer.file, file_id, batch), refusal)
            return
        self._limited_tries = 0
        self._under_way.append(self._store.update_batch(batch, begun.status, begun.id))

    def _upload(self, file: BatchFile) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{file.digest}.jsonl"
            write_batch_file(path, file, self._server.model)
            return self._server.upload(path)

    def _new_batch(self, file: BatchFile) -> StoredBatch:
        now = time.time()
        # the time makes the name another one when the same requests are sent in a second batch
        name = digest([file.digest, now])
        request = next(iter(file.requests.values()))
        return StoredBatch(
            id=name,
            name=name,
            model=request.model,
            host=self._server.host,
            run_id=self._run_id,
            state=CREATING,
            created=now,
            keys=tuple(file.requests),
        )

    def _not_taken(self, offer: _Offer, refusal: NotNowError) -> None:
        pause_s = refusal.retry_after_s or 0.0
        if too_long := self._server.error_of_long_wait(refusal.sentence, pause_s, LONGEST_PAUSE_S):
            raise too_long
        self._not_before = time.time() + max(pause_s, self._wait_s)
        if refusal.full:
            self._hold(offer, alone=not self._under_way)
            return
        self._limited_tries += refusal.retry_after_s is None
        if self._limited_tries > LIMITED_TRIES:
            raise RequestError(f"{refusal.sentence}; tried {self._limited_tries} times; {GO_ON}")
        self._held.append(offer)
        say(f"{refusal.sentence}; {len(offer.file.requests)} requests are offered again later")

    def _hold(self, offer: _Offer, *, alone: bool) -> None:
        """Keep what does not fit into the server's queue: until a batch of ours ends, or in halves.

        Args:
            offer: what was not taken.
            alone: no other batch of ours is in the queue.
        """
        self._full = True
        if not alone:
            self._held.append(offer)
            return
        halves = offer.file.halves()
        self._single_request_tries += len(halves) == 1
        if self._single_request_tries > SINGLE_REQUEST_TRIES:
            raise RequestError(
                f"{self._server.host} has no room in its queue for even one request of this "
                "account: wait for its other batches, or cancel them, and run the same command "
                "again"
            )
        # a single request cannot be halved, and its file is at the server already
        parts = [offer] if len(halves) == 1 else [_Offer(half) for half in halves]
        self._held.extendleft(reversed(parts))

    def _offer_held(self) -> None:
        """Offer one held shard at a time; whether it was taken shows only after a while."""
        if time.time() < self._not_before:
            return
        unsure = any(batch.state == "validating" for batch in self._under_way)
        full = self._full and bool(self._under_way)
        if self._held and not full and not unsure:
            self._submit(self._held.popleft())

    def _poll(self) -> Iterator[list[ModelReply]]:
        """Ask after every batch; read those that have ended."""
        states = [self._server.retrieve(batch.id) for batch in self._under_way]
        self._alone = len(states) == 1
        self._say_progress(states)
        batches = [self._noted(b, now) for b, now in zip(self._under_way, states, strict=True)]
        self._under_way = [batch for batch in batches if batch.state not in ENDED]
        for batch, now in zip(batches, states, strict=True):
            if batch.state in ENDED:
                yield from self._end(batch, now)

    def _noted(self, batch: StoredBatch, now: Batch) -> StoredBatch:
        if now.status == batch.state:
            return batch
        self._full = self._full and now.status != "in_progress"
        return self._store.update_batch(batch, now.status)

    def _end(self, batch: StoredBatch, now: Batch) -> Iterator[list[ModelReply]]:
        results = BatchResults(self._server, self._store, batch, self._wanted)
        yield from results.read(now)
        self._store.update_batch(batch, READ)
        rest = {k: self._wanted[k] for k in results.unanswered if k in self._wanted}
        if now.status == "cancelled":
            self._cancelled += len(rest)
        elif now.status == "failed":
            yield from self._failed(batch, now, rest)
        else:
            self._full = False
            yield from self._again(rest, results.unanswered)

    def _again(
        self, requests: dict[str, ChatRequest], why: Mapping[str, str]
    ) -> Iterator[list[ModelReply]]:
        """Put into another batch what this one left without an answer, a few times."""
        self._unanswered.update(list(requests))
        given_up = [key for key in requests if self._unanswered[key] >= TRIES]
        yield [
            ModelReply(requests[key], None, f"not answered in {TRIES} batches: {why[key]}")
            for key in given_up
        ]
        self._submit_all(missing(requests, given_up))

    def _failed(
        self, batch: StoredBatch, now: Batch, rest: dict[str, ChatRequest]
    ) -> Iterator[list[ModelReply]]:
        """Go on after a batch that the server did not begin: a full queue, or lines it refuses."""
        errors = _errors(now)
        if any(error.code == QUEUE_FULL for error in errors):
            file = BatchFile(rest)
            same_file = file.requests.keys() == set(batch.keys)
            offer = _Offer(file, now.input_file_id if same_file else "")
            self._hold(offer, alone=self._alone)
            return
        bad = {
            batch.keys[error.line - 1]: error.message or error.code or "not accepted"
            for error in errors
            if error.line and error.line <= len(batch.keys)
        }
        if not bad or 1 < len(bad) == len(batch.keys):
            raise RequestError(
                f"{self._server.host} did not begin batch {batch.id} of {len(batch.keys)} "
                f"requests ({why_failed(now)}); {GO_ON}"
            )
        yield [ModelReply(rest[key], None, why) for key, why in bad.items() if key in rest]
        self._submit_all(missing(rest, bad))

    def _say_progress(self, states: Sequence[Batch]) -> None:
        """Say how far the batches are, when something has changed."""
        named = Counter(state.status for state in states)
        counts = [state.request_counts for state in states if state.request_counts]
        answered = sum(count.completed + count.failed for count in counts)
        total = sum(count.total for count in counts)
        shown = ", ".join(f"{count} {status}" for status, count in named.items())
        line = f"batches at {self._server.host}: {shown}; {answered} of {total} requests answered"
        if self._held:
            held = sum(len(offer.file.requests) for offer in self._held)
            line += f"; {held} requests wait for room"
        if states and line != self._last_line:
            say(line)
            self._last_line = line


def why_failed(batch: Batch) -> str:
    """What the server says about a batch that it did not begin."""
    reasons = [f"{error.code}: {error.message}" for error in _errors(batch)[:3]]
    return "; ".join(reasons) or "it does not say why"


def _errors(batch: Batch) -> list[BatchError]:
    return (batch.errors and batch.errors.data) or []
