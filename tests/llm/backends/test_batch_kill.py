"""`kill -9` before and after every step of the Batch API: nothing is asked twice, nothing lost."""

import re
import subprocess
import sys
from collections import defaultdict

import pytest

from clair_apo.llm import RequestStore
from tests.helpers import ROOT
from tests.helpers.batch_endpoints import BatchEndpoints
from tests.helpers.llm_requests import ask_for

# One process imports everything once; each attempt is a fork of it, which kills itself at a step.
_ATTEMPTS = """
import os, signal, sys
from pathlib import Path
from tests.helpers.llm_requests import ask_for
from clair_apo.llm import ModelSpec, RequestStore, StoredAnswer
from clair_apo.llm.backends import batch_api
from clair_apo.llm.backends.batch_api import BatchChat

base_url, folder, first, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
batch_api.FIRST_WAIT_S = 0.0
batch_api.MOST_REQUESTS = 2
REQUESTS = [ask_for(f"q{n}", model="big") for n in range(5)]


def run(name):
    spec = ModelSpec(model="big", base_url=f"{base_url}/{name}/v1")
    with RequestStore(folder / name / "s.sqlite") as store:
        missing = [r for r in REQUESTS if r.key not in store]
        for group in BatchChat(spec, store).answer(missing) if missing else ():
            store.put_many([StoredAnswer(a.request.key, "big", a.response) for a in group])


def dying_at(last):
    passed = iter(range(last + 1))

    def step():
        if next(passed) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def guarded(kind, name):
        method = getattr(kind, name)

        def call(*args, **settings):
            step()
            result = method(*args, **settings)
            step()
            return result

        setattr(kind, name, call)

    for name in ("upload", "create", "find", "retrieve", "download"):
        guarded(batch_api.BatchServer, name)
    for name in ("add_batch", "update_batch", "put_many"):
        guarded(RequestStore, name)


def in_a_fork(work):
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            print(type(error), error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(name, at):
    dying_at(at)
    run(name)


for at in range(first, 200, step):
    name = f"at{at}"
    end = in_a_fork(lambda: killed(name, at))
    assert end in (0, -signal.SIGKILL), end
    if end == 0:
        break  # there is no such step any more
    assert in_a_fork(lambda: run(name)) == 0
    print(name, flush=True)
"""

STEPS = 3
"""The kills are dealt to so many tests, so that each is short."""


@pytest.fixture
def endpoints(httpserver):
    """A server with a state of its own below each first part of the path."""
    states = defaultdict(BatchEndpoints)
    httpserver.expect_request(re.compile("/at")).respond_with_handler(
        lambda request: states[request.path.split("/")[1]].handle(request)
    )
    return states


@pytest.mark.real
@pytest.mark.parametrize("first", range(STEPS))
def test_a_run_that_was_killed_at_a_step_asks_nothing_twice_and_loses_nothing(
    endpoints, httpserver, tmp_path, first
):
    command = [sys.executable, "-c", _ATTEMPTS, httpserver.url_for("").rstrip("/")]
    done = subprocess.run(
        [*command, str(tmp_path), str(first), str(STEPS)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,  # where `tests.helpers` is
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert len(names) >= 10
    keys = [ask_for(f"q{n}", model="big").key for n in range(5)]
    for name in names:
        assert endpoints[name].asked == dict.fromkeys(keys, 1), name
        with RequestStore(tmp_path / name / "s.sqlite") as store:
            assert all(key in store for key in keys)
