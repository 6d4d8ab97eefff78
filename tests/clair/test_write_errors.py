"""A run whose folder is full: what was paid for is in the store all the same."""

import errno
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial

import pytest

from clair_apo import files
from clair_apo.clair import GenerateConfig, generate
from clair_apo.errors import WriteError
from clair_apo.llm import RequestStore
from clair_apo.llm.backends.http import HttpChat
from tests.helpers.chat_server import ChatServer, Reply
from tests.helpers.clair_runs import write_rows

MODULE = sys.modules["clair_apo.clair.generate"]


def test_answers_under_way_are_kept_when_a_row_cannot_be_written(tmp_path, monkeypatch):
    questions = [f"question {n}?" for n in range(4)]
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": question} for question in questions])
    stopping, stop, writer = threading.Event(), HttpChat.stop, MODULE.atomic_writer

    def stop_and_tell(chat):
        stop(chat)
        stopping.set()

    @contextmanager
    def full_for_responses(path):
        with writer(path) as file:
            if path.name == "responses.jsonl":
                file.write = partial(no_room, path)
            yield file

    def no_room(path, _):
        give_up = time.monotonic() + 20
        while server.under_way < 3 and time.monotonic() < give_up:
            time.sleep(0.01)
        with files._write_errors(path):
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(HttpChat, "stop", stop_and_tell)
    monkeypatch.setattr(MODULE, "atomic_writer", full_for_responses)

    def reply(asked):
        return Reply(until=None if asked.text == questions[0] else stopping)

    with ChatServer(reply) as server:
        model = {"model": "m", "base_url": server.url, "max_in_flight": 4}
        config = GenerateConfig(
            run_dir=tmp_path / "run", prompts={"path": str(data)}, target=model, reviser=model
        )
        with pytest.raises(
            WriteError, match=r"responses\.jsonl: cannot be written .*free space there"
        ):
            generate(config)
        assert len(server.asked) == 4
    with RequestStore(config.store_path) as store:
        assert len(store) == 4
