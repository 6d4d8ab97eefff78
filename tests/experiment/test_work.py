"""Jobs that several processes share: none is done twice, and a failure stops no other."""

import multiprocessing
import os
import signal
import time

import pytest

from clair_apo.errors import DataError
from clair_apo.experiment import work
from clair_apo.experiment.work import Job, do_all, is_done, read_outcome


@pytest.fixture(autouse=True)
def looks_soon(monkeypatch):
    monkeypatch.setattr(work, "LOOK_AGAIN", 0.05)


def _note(path, seconds=0.05):
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)


def _jobs(folder, number=6):
    return [
        Job(f"job {n}", folder / str(n) / "test.json", lambda n=n: _note(folder / f"{n}.done"))
        for n in range(number)
    ]


def _work(folder):
    do_all(_jobs(folder), time.time())


def test_two_processes_share_the_jobs_and_do_none_twice(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    did = [(tmp_path / f"{n}.done").read_text().split() for n in range(6)]
    assert [len(one) for one in did] == [1] * 6
    assert all(is_done(job.file) for job in _jobs(tmp_path))


def _hang(folder):
    do_all([Job("hangs", folder / "0" / "test.json", lambda: _hold(folder))], time.time())


def _hold(folder):
    (folder / "holds").touch()
    time.sleep(60)


def test_the_job_of_a_killed_process_is_taken_up(tmp_path):
    worker = multiprocessing.get_context("fork").Process(target=_hang, args=(tmp_path,))
    worker.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "holds").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    _work(tmp_path)
    assert (tmp_path / "0.done").read_text().split() == [str(os.getpid())]


def test_a_failure_is_written_down_and_the_others_go_on_and_a_later_run_tries_again(
    tmp_path, capsys
):
    tries = []

    def fails():
        tries.append(1)
        if len(tries) == 1:
            raise DataError("no such file")
        if len(tries) == 2:
            raise RuntimeError("out of\nmemory")

    broken = Job("broken", tmp_path / "b" / "test.json", fails)
    jobs = [broken, *_jobs(tmp_path, 1)]
    do_all(jobs, time.time())
    assert (read_outcome(broken.file).state, read_outcome(broken.file).why) == (
        "failed",
        "no such file",
    )
    assert "broken: failed: no such file" in capsys.readouterr().err
    assert is_done(jobs[1].file)
    do_all(jobs, time.time())
    assert read_outcome(broken.file).why == "RuntimeError: out of memory"
    assert "Traceback" in (tmp_path / "b" / "failure.txt").read_text()
    do_all(jobs, time.time())
    assert is_done(broken.file)
    assert len((tmp_path / "0.done").read_text().split()) == 1


def test_a_failure_of_this_very_run_is_not_tried_again(tmp_path):
    tries = []

    def fails():
        tries.append(1)
        raise DataError("never")

    since = time.time()
    for _ in range(2):
        do_all([Job("broken", tmp_path / "b" / "test.json", fails)], since)
    assert len(tries) == 1
