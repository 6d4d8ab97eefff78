"""The Slurm script, as Slurm would start it, with stand-ins for the programs that it calls."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/slurm_generate.sh"
SERVER = '#!/bin/bash\necho "$*" > "$SLURM_TMPDIR/served"\nexec sleep 60\n'
CURL = "#!/bin/bash\nexit 0\n"
# opens the store as a shard does and leaves its row in the write-ahead log, as a kill would
GENERATE = f"""#!{sys.executable}
import os, signal, sqlite3, sys, time
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
number, count = options["--shard"].split("/")
store = options["--store"].removesuffix(".sqlite") + f"-{{number}}-of-{{count}}.sqlite"
db = sqlite3.connect(store)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE IF NOT EXISTS answers (key)")
db.execute("INSERT INTO answers VALUES ('paid')")
db.commit()
if "SLOW" in os.environ:
    open(os.environ["SLOW"], "w").write(" ".join(sys.argv[1:]))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    """Starts array task 3 of 8; every process that it started is gone at the end."""
    for name, text in (("vllm", SERVER), ("curl", CURL), ("clair-apo", GENERATE)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        program = tmp_path / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    started = []

    def begin(local, **more):
        environment = os.environ | {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_ARRAY_TASK_COUNT": "8",
            "SLURM_TMPDIR": str(tmp_path / local),
            **more,
        }
        command = ["bash", str(SCRIPT), "c.yaml", str(tmp_path / "run")]
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def answers(tmp_path):
    """What stands in the store that is kept in the shard's folder."""
    kept = tmp_path / "run/3-of-8/requests-3-of-8.sqlite"
    return sqlite3.connect(kept).execute("SELECT count(*) FROM answers").fetchone()[0]


def test_the_store_is_kept_beside_the_shard_and_fetched_by_the_next_task(tmp_path, start):
    for task in (1, 2):  # each on a node with an empty disk of its own
        process = start(f"node{task}")
        assert process.wait(timeout=30) == 0, process.stderr.read()
        assert answers(tmp_path) == task
    assert [path.name for path in (tmp_path / "run/3-of-8").iterdir()] == ["requests-3-of-8.sqlite"]


def test_a_task_that_slurm_ends_keeps_what_was_paid_for(tmp_path, start):
    mark = tmp_path / "asking"
    process = start("node", SLOW=str(mark), MODEL="/models/checkpoint-500/")
    give_up = time.monotonic() + 30
    while not (mark.exists() and mark.read_text()) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert "--config c.yaml" in mark.read_text() and "--shard 3/8" in mark.read_text()
    # the store's keys tell checkpoints apart by this name
    assert "--reviser.model checkpoint-500 " in mark.read_text()
    served = (tmp_path / "node/served").read_text()
    assert "serve /models/checkpoint-500/ --served-model-name checkpoint-500 " in served
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert answers(tmp_path) == 1


def test_a_server_that_does_not_start_ends_the_task(tmp_path, start):
    (tmp_path / "bin/vllm").write_text("#!/bin/bash\nexit 1\n")
    (tmp_path / "bin/curl").write_text("#!/bin/bash\nsleep 0.2\nexit 7\n")
    process = start("node")
    assert process.wait(timeout=30) == 1
    assert "the server ended before it answered" in process.stderr.read()
