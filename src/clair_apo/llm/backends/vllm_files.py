"""Requests in files that `vllm run-batch` answers between two runs, on a node without a server.

A run writes what it wants to ask into files, says what to run, and ends; the next run reads what
came back. There is one round for each time that a row asks.
"""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path

from clair_apo.errors import WaitingError
from clair_apo.llm.backends.batch_files import (
    BatchFile,
    batch_files_of,
    missing,
    read_keys,
    read_results,
    write_batch_file,
)
from clair_apo.llm.spec import ModelSpec
from clair_apo.llm.types import Answer, ChatModel, ChatRequest, ModelReply

MOST_REQUESTS = 10_000
"""In one file. `vllm run-batch` writes its output when all is done: a crash costs one file's."""
MOST_BYTES = 200_000_000
STORED_TOGETHER = 1000
"""Answers per transaction."""
TRIES = 3
"""In how many output files the answer to a request may break off before it counts as failed."""
INPUT, OUTPUT = ".in.jsonl", ".out.jsonl"


class FileChat(ChatModel):
    """A model that is asked by files: `NAME.in.jsonl` is answered by `NAME.out.jsonl` beside it.

    Args:
        spec: `model` is what `vllm run-batch --model` is to be given: a folder or a hub name.
        folder: where the files are; made when the first is written.
    """

    wave = 100_000

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        self._model = spec.model
        self._folder = folder

    def plan(self, requests: Sequence[ChatRequest]) -> list[Sequence[ChatRequest]]:
        """All in one group: every file is written before the first is waited for."""
        return [requests]

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        """Read what the output files answer.

        Raises:
            WaitingError: there are requests that no output answers; says what to run.
        """
        rest = {request.key: request for request in requests}
        failures: dict[str, str] = {}
        broken_off: Counter[str] = Counter()
        for path in sorted(self._folder.glob(f"*{OUTPUT}")):
            yield from self._read(path, rest, failures, broken_off)
        yield [ModelReply(rest.pop(key), None, why) for key, why in failures.items() if key in rest]
        if rest:
            raise WaitingError(self._what_to_run(self._written(rest)))

    def _read(
        self,
        path: Path,
        rest: dict[str, ChatRequest],
        failures: dict[str, str],
        broken_off: Counter[str],
    ) -> Iterator[list[ModelReply]]:
        """The answers of one file; a request that failed in it may be answered by another.

        So may one whose answer broke off, until as many files as `TRIES` had none that is whole.
        """
        results = (result for result in read_results(path) if result.key in rest)
        while group := list(islice(results, STORED_TOGETHER)):
            whole = []
            for result in group:
                if result.response is None:
                    if not result.passing:
                        failures[result.key] = result.failure
                elif result.key in rest:
                    answer = Answer.of_response(rest[result.key], result.response)
                    if answer.completion:
                        whole.append(ModelReply(rest.pop(result.key), result.response))
                        continue
                    broken_off[result.key] += 1
                    if broken_off[result.key] >= TRIES:
                        failures[result.key] = answer.failure
            yield whole

    def _written(self, requests: Mapping[str, ChatRequest]) -> list[Path]:
        """The input files that hold the requests: those that wait already, and new ones."""
        waiting = [p for p in sorted(self._folder.glob(f"*{INPUT}")) if not _output(p).exists()]
        keys = {path: read_keys(path) for path in waiting}
        paths = [path for path in waiting if any(key in requests for key in keys[path])]
        rest = missing(requests, (key for path in paths for key in keys[path]))
        for file in batch_files_of(
            rest, self._model, most_requests=MOST_REQUESTS, most_bytes=MOST_BYTES
        ):
            paths.append(self._free_name(file))
            write_batch_file(paths[-1], file, self._model)
        return paths

    def _free_name(self, file: BatchFile) -> Path:
        # the same requests are asked again where their output was torn
        names = (f"{file.digest[:12]}-{number}{INPUT}" for number in count(1))
        return next(path for name in names if not (path := self._folder / name).exists())

    def _what_to_run(self, paths: Sequence[Path]) -> str:
        commands = [
            shlex.join(
                ["vllm", "run-batch", "-i", f"{p}", "-o", f"{_output(p)}", "--model", self._model]
            )
            for p in paths
        ]
        return "\n  ".join(["requests wait in files; run", *commands]) + (
            "\nand then the same command again"
        )


def _output(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(INPUT) + OUTPUT)
