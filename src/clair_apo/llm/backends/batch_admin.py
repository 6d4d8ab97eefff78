"""The batches of a run, from outside of the run: list, read, cancel, forget."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from openai.types import Batch

from clair_apo.errors import RequestError
from clair_apo.llm.backends.batch_api import ENDED, why_failed
from clair_apo.llm.backends.batch_client import BatchResults, BatchServer
from clair_apo.llm.spec import ModelSpec, host_of
from clair_apo.llm.store import RequestStore
from clair_apo.llm.store_schema import CREATING, FORGOTTEN, READ, StoredBatch


@dataclass(frozen=True)
class BatchLook:
    """The progress of a batch."""

    batch: StoredBatch
    answered: int
    """Requests whose answer is in the store."""
    told: str = ""
    """Why the server did not begin it."""


class BatchAdmin:
    """Lists, cancels and forgets the batches of one run.

    Args:
        store: where they are written down.
        run_id: whose they are.
        specs: the models of the run; they lead to the servers.
    """

    def __init__(self, store: RequestStore, run_id: str, specs: Iterable[ModelSpec]) -> None:
        self._store, self._run_id = store, run_id
        self._specs = [spec for spec in specs if spec.base_url]
        self._servers: dict[tuple[str, str], BatchServer] = {}

    def look(self) -> list[BatchLook]:
        """Ask after all open batches, and read those that have ended into the store.

        Raises:
            RequestError: a server cannot be asked.
        """
        return [self._look(batch) for batch in self._batches()]

    def cancel(self, id: str) -> None:
        """End one batch, or `all`; what was answered until then stays, and is billed.

        Raises:
            RequestError: there is no such open batch, or the server does not end it.
        """
        for batch in self._open(id):
            if batch.state != CREATING:
                found = self._server(batch).cancel(batch.id)
                self._store.update_batch(batch, found.status)

    def forget(self, id: str) -> None:
        """Wait for a batch no longer; its requests are asked again by the next run.

        Raises:
            RequestError: there is no such open batch.
        """
        for batch in self._open(id):
            self._store.update_batch(batch, FORGOTTEN)

    def _batches(self) -> list[StoredBatch]:
        return [batch for batch in self._store.batches() if batch.run_id == self._run_id]

    def _open(self, id: str) -> list[StoredBatch]:
        found = [b for b in self._batches() if b.open and id in ("all", b.id)]
        if not found and id != "all":
            raise RequestError(f"this run has no open batch {id!r}; list them without options")
        return found

    def _server(self, batch: StoredBatch) -> BatchServer:
        key = (batch.host, batch.model)
        if key not in self._servers:
            self._servers[key] = BatchServer(self._spec(batch))
        return self._servers[key]

    def _spec(self, batch: StoredBatch) -> ModelSpec:
        """Leads to the batch's server, with the key of the batch's model where that is known."""
        there = [spec for spec in self._specs if host_of(spec) == batch.host]
        if not there:
            raise RequestError(
                f"batch {batch.id} is at {batch.host}, which the run's config does not name any "
                "more; name it again in base_url, or forget the batch"
            )
        return next((spec for spec in there if spec.model == batch.model), there[0])

    def _look(self, batch: StoredBatch) -> BatchLook:
        told = ""
        if batch.open and (now := self._state(batch)):
            batch = self._store.update_batch(batch, now.status, now.id)
            if now.status in ENDED:
                results = BatchResults(self._server(batch), self._store, batch, {})
                deque(results.read(now), maxlen=0)  # stored as they are read: nobody waits for them
            if now.status == "failed":
                told = why_failed(now)
            elif now.status in ENDED:
                batch = self._store.update_batch(batch, READ)
        return BatchLook(batch, sum(key in self._store for key in batch.keys), told)

    def _state(self, batch: StoredBatch) -> Batch | None:
        """The server's record of it; None where the server has not heard of it, or not yet."""
        server = self._server(batch)
        if batch.state == CREATING:
            return server.find(batch.name)
        return server.retrieve(batch.id)
