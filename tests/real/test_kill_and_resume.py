"""A real run killed at many random instants: nothing is lost, nothing is paid for twice."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.chat_server import ChatServer, play_both_models

KILLS = 50
IN_FLIGHT = 8
ANSWER_S = 0.05
MOST_ASKED = 12
"""Before a kill: enough prompts are left for each of the next, however fast a process starts."""
PROMPTS = 800
LONGEST_LIFE_S = 60

COMMAND = (sys.executable, "-c", "from clair_apo.cli import main; main()", "generate")


@pytest.fixture
def server():
    """Answers the same request the same way, and knows who was asked when."""
    with ChatServer(lambda asked: replace(play_both_models(asked), delay_s=ANSWER_S)) as running:
        yield running


class Run:
    """A run folder with a store of its own, and the command that fills it."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self.folder = folder / "run"
        self.store = folder / "requests.sqlite"
        data = folder.parent / "prompts.jsonl"
        data.write_text(
            "".join(json.dumps({"prompt": f"Question {n}"}) + "\n" for n in range(PROMPTS))
        )
        # a busy machine must not make a request time out, and be asked again
        patient = ("--target.timeout_s", "900", "--reviser.timeout_s", "900")
        self.args = (
            *COMMAND,
            *patient,
            *("--run_dir", str(self.folder), "--prompts.path", str(data)),
            *("--target.model", "target", "--target.base_url", url),
            *("--target.max_in_flight", str(IN_FLIGHT)),
            *("--reviser.model", "reviser", "--reviser.base_url", url),
            *("--revision.format", "edits"),
            *("--reviser.max_in_flight", str(IN_FLIGHT)),
        )

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> None:
        process = self.start()
        _, err = process.communicate(timeout=900)
        assert process.returncode == 0, err

    def committed(self) -> set[str]:
        """The requests whose answers are in the store, as the server names them."""
        if not self.store.exists():
            return set()
        with closing(sqlite3.connect(self.store)) as db:
            try:
                rows = db.execute("SELECT response FROM answers").fetchall()
            except sqlite3.OperationalError:  # killed before its table was made
                return set()
        return {json.loads(response)["id"] for (response,) in rows}

    def rows(self) -> dict[str, bytes]:
        return {
            name: (self.folder / name).read_bytes() for name in ("pairs.jsonl", "dropped.jsonl")
        }


def kill_at_a_random_instant(run: Run, server: ChatServer, dice: random.Random) -> None:
    """Start a process and kill it after some more requests, or some time if that is shorter."""
    process = run.start()
    born, before = time.monotonic(), len(server.asked)
    wait_for = dice.randrange(MOST_ASKED)
    life_s = dice.uniform(0, 4) if dice.random() < 0.2 else LONGEST_LIFE_S
    try:
        while len(server.asked) - before < wait_for and time.monotonic() - born < life_s:
            if process.poll() is not None:
                break
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 2 * ANSWER_S))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    while server.under_way:  # the server notices that nobody is there any more
        time.sleep(0.01)
    assert process.returncode == -signal.SIGKILL, "it was over before it was killed"


@pytest.mark.real
@pytest.mark.timeout(1500)
def test_50_kills_at_random_instants_lose_nothing_and_ask_nothing_twice(server, tmp_path):
    whole = Run(tmp_path / "whole", server.url)
    whole.finish()
    once = dict(server.counts)
    assert set(once.values()) == {1}
    assert whole.committed() == set(once)
    server.asked.clear()
    server.counts.clear()

    dice = random.Random(20240812)
    killed = Run(tmp_path / "killed", server.url)
    committed: set[str] = set()
    in_flight_at_kills = 0
    for _ in range(KILLS):
        begun = len(server.asked)
        kill_at_a_random_instant(killed, server, dice)
        asked = [one.key for one in server.asked[begun:]]
        assert not set(asked) & committed, "an answer that was committed was asked for again"
        assert len(asked) == len(set(asked)), "one process asked the same thing twice"
        now = killed.committed()
        assert committed <= now, "an answer that was committed is gone"
        lost = set(asked) - now
        assert len(lost) <= IN_FLIGHT
        in_flight_at_kills += len(lost)
        committed = now
    killed.finish()

    assert killed.rows() == whole.rows()
    assert set(server.counts) == set(once)
    assert killed.committed() == set(once)
    assert len(server.asked) - len(once) == in_flight_at_kills


@pytest.mark.real
@pytest.mark.timeout(300)
def test_a_second_process_on_the_same_run_folder_is_refused_by_name(tmp_path):
    release = threading.Event()

    def slow(asked):
        return replace(play_both_models(asked), until=release)

    with ChatServer(slow) as server:
        run = Run(tmp_path / "run", server.url)
        first = run.start()
        try:
            while not server.asked and first.poll() is None:
                time.sleep(0.02)
            asked = len(server.asked)
            second = subprocess.run(
                run.args, capture_output=True, text=True, timeout=120, env=os.environ
            )
            release.set()
            _, err = first.communicate(timeout=250)
        finally:
            first.kill()
        assert second.returncode == 2
        assert str(run.folder) in second.stderr
        assert "another process is at work in this run folder" in second.stderr
        assert first.returncode == 0, err
        assert asked
        assert max(server.counts.values()) == 1
