"""The request store: what was paid for stays, whatever happens to the process."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.errors import StoreError
from clair_apo.llm import RequestStore

ANSWER = {"choices": [{"message": {"content": "Grüße, 世界 \u2028"}}], "n": 1.5, "none": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "folder" / "requests.sqlite"


def test_what_is_put_is_got_again_also_after_reopening(path):
    with RequestStore(path) as store:
        assert store.get("k") is None
        store.put("k", "m", ANSWER)
        assert store.get("k") == ANSWER
        assert len(store) == 1
    with RequestStore(path) as store:
        assert store.get("k") == ANSWER
        assert store.get("K") is None


def test_the_first_answer_under_a_key_stays(path):
    with RequestStore(path) as store:
        store.put("k", "m", {"first": 1})
        store.put("k", "m", {"second": 2})
        assert store.get("k") == {"first": 1}
        assert len(store) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_object_comes_back_unchanged(response):
    with RequestStore(":memory:") as store:
        store.put("k", "m", response)
        assert store.get("k") == response


def test_half_a_surrogate_pair_in_a_response_is_kept_as_it_was_sent():
    with RequestStore(":memory:") as store:
        store.put("k", "m", {"content": "\ud83d"})
        assert store.get("k") == {"content": "\ud83d"}


_PUTS = """
import os, sys, time
from clair_apo.llm import RequestStore
store = RequestStore(sys.argv[1])
for n in range(int(sys.argv[2])):
    store.put(f"{sys.argv[3]}{n}", "m", {"n": n})
print("put", flush=True)
if sys.argv[4] == "hang":
    time.sleep(60)
"""


def _writer(path, count, name, then="end"):
    command = [sys.executable, "-c", _PUTS, str(path), str(count), name, then]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_answer_survives_a_kill_right_after_it_was_put(path):
    process = _writer(path, 3, "k", "hang")
    try:
        assert process.stdout.readline() == "put\n", process.stderr.read()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    with RequestStore(path) as store:
        assert [store.get(f"k{n}") for n in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_processes_that_begin_and_fill_one_store_together_lose_nothing(path):
    writers = [_writer(path, 20, name) for name in "abcd"]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    with RequestStore(path) as store:
        assert len(store) == 4 * 20
        assert store.get("d19") == {"n": 19}


def test_a_new_store_waits_while_another_process_makes_it(tmp_path):
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path, check_same_thread=False) as other:
        other.execute("BEGIN IMMEDIATE")
        later = threading.Timer(0.3, other.commit)
        later.start()
        with RequestStore(path) as store:  # SQLite itself does not wait before it turns to WAL
            store.put("k", "m", {})
            assert len(store) == 1
        later.join()
    other.close()


def assert_refused(path, match):
    before = path.read_bytes()
    with pytest.raises(StoreError, match=match) as caught:
        RequestStore(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"SQLite format 3\x00" + b"\x07" * 5000)
    assert_refused(path, "cannot be used")


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 500)
    assert_refused(path, "not a database")


def test_another_version_is_refused_and_left_as_it_is(path):
    with RequestStore(path) as store:
        store.put("k", "m", ANSWER)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert_refused(path, "version 99, this program reads 1")


def test_a_database_of_somebody_else_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "theirs.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE customers (name TEXT)")
    db.close()
    assert_refused(path, "is a database but no request store")


def test_a_place_that_cannot_be_written_isassert_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be used"):
        RequestStore(tmp_path / "file" / "s.sqlite")
    with pytest.raises(StoreError, match="cannot be used"):
        RequestStore(tmp_path)  # a folder


def test_a_store_that_is_damaged_while_in_use_says_so(path):
    with RequestStore(path) as store:
        store._db.execute("DROP TABLE answers")
        with pytest.raises(StoreError, match="no such table"):
            store.get("k")
        with pytest.raises(StoreError, match="no such table"):
            store.put("k", "m", {})
