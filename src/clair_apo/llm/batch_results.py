"""What a batch has answered, from the server's files into the store."""

import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from openai.types import Batch

from clair_apo.llm.backends.batch_client import BatchServer
from clair_apo.llm.backends.batch_files import BatchResult, read_results
from clair_apo.llm.responses import is_completion
from clair_apo.llm.store import RequestStore
from clair_apo.llm.store_schema import StoredAnswer, StoredBatch
from clair_apo.llm.types import Answered, ChatRequest, Completion

STORED_TOGETHER = 1000
"""Answers per transaction."""


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

    def read(self, ended: Batch) -> Iterator[list[Answered]]:
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

    def _take(self, results: list[BatchResult]) -> list[Answered]:
        others: list[StoredAnswer] = []
        broken_off: list[StoredAnswer] = []
        mine = []
        for result in results:
            if result.passing:
                self.unanswered[result.key] = result.failure
                continue
            self.unanswered.pop(result.key, None)
            if request := self._wanted.get(result.key):
                mine.append(Answered(request, result.response, result.failure))
            elif result.response is not None and is_completion(result.response):
                stored = StoredAnswer(result.key, self._batch.model, result.response)
                (others if Completion.is_whole(result.response) else broken_off).append(stored)
        self._store.put_many(others, self._batch.run_id)
        self._store.put_broken_off(broken_off, self._batch.run_id)
        return mine
