"""The request store: what was paid for stays, whatever happens to the process."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.errors import StoreError
from clair_apo.llm import Answer, RequestStore, StoredAnswer, store_file
from clair_apo.llm import store as store_module
from clair_apo.llm.store_schema import SPENT, Spent, StoredBatch
from tests.helpers.llm_requests import ask_for


def whole(text, **more):
    """A response that says that its answer came to an end."""
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]} | more


ANSWER = whole("Grüße, 世界 \u2028", n=1.5, none=None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "folder" / "requests.sqlite"


def sql(path, statement, *values):
    """What another program reads from a store's file, or does to it."""
    with closing(sqlite3.connect(path)) as db, db:
        return db.execute(statement, values).fetchall()


def put(store, key, response, *, model="m", run_id=""):
    store.put_many([StoredAnswer(key, model, response)], run_id)


def used(prompt_tokens, completion_tokens):
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return whole("hello", usage=usage)


def test_what_is_put_is_got_again_also_after_reopening(path):
    with RequestStore(path) as store:
        assert store.get("k") is None
        put(store, "k", ANSWER)
        assert store.get("k") == ANSWER
        assert len(store) == 1
    with RequestStore(path) as store:
        assert store.get("k") == ANSWER
        assert store.get("K") is None


def test_the_first_answer_under_a_key_stays(path):
    with RequestStore(path) as store:
        put(store, "k", whole("first"))
        put(store, "k", whole("second"))
        assert store.get("k") == whole("first")
        assert len(store) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_object_comes_back_unchanged(response):
    with RequestStore(":memory:") as store:
        put(store, "k", response)
        assert store.get("k") == response


def test_half_a_surrogate_pair_in_a_response_is_kept_as_it_was_sent():
    with RequestStore(":memory:") as store:
        put(store, "k", {"content": "\ud83d"})
        assert store.get("k") == {"content": "\ud83d"}


_PUTS = """
import os, sys, time
from clair_apo.llm import RequestStore, StoredAnswer
store = RequestStore(sys.argv[1])
for n in range(int(sys.argv[2])):
    store.put_many([StoredAnswer(f"{sys.argv[3]}{n}", "m", {"n": n})])
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
            put(store, "k", {})
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
        put(store, "k", ANSWER)
    sql(path, "PRAGMA user_version = 99")
    assert_refused(path, "version 99, this program reads 3")


def test_a_database_of_somebody_else_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "theirs.sqlite"
    sql(path, "CREATE TABLE customers (name TEXT)")
    assert_refused(path, "is a database but no request store")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be used"):
        RequestStore(tmp_path / "file" / "s.sqlite")
    with pytest.raises(StoreError, match="make the file and its folder writable"):
        RequestStore(tmp_path)  # a folder


def test_a_store_that_is_damaged_while_in_use_says_so(path):
    with RequestStore(path) as store:
        sql(path, "DROP TABLE answers")
        with pytest.raises(StoreError, match="no such table"):
            store.get("k")
        with pytest.raises(StoreError, match="no such table"):
            put(store, "k", {})


def test_a_store_knows_which_keys_it_holds(path):
    with RequestStore(path) as store:
        put(store, "k", ANSWER)
        assert "k" in store
        assert "l" not in store


def test_answers_are_put_all_together_or_not_at_all(path):
    with RequestStore(path) as store:
        good = StoredAnswer("good", "m", {})
        with pytest.raises(TypeError):
            store.put_many([good, StoredAnswer("bad", "m", {"set": {1}})])
        with pytest.raises(StoreError):
            store.put_many([good, StoredAnswer("bad", None, {})])
        assert len(store) == 0
        store.put_many([good, StoredAnswer("better", "m", {})])
        assert len(store) == 2


def test_tokens_are_summed_by_model_for_each_run_and_read_from_the_usage(path):
    with RequestStore(path) as store:
        put(store, "a", used(1, 10), model="x", run_id="r1")
        put(store, "b", used(2, 20), model="x", run_id="r1")
        put(store, "c", used(4, 40), model="y", run_id="r1")
        put(store, "d", used(8, 80), model="x", run_id="r2")
        put(store, "a", used(16, 160), model="x", run_id="r2")  # the first answer stays r1's
        assert store.spent("r1") == {"x": Spent(2, 3, 30), "y": Spent(1, 4, 40)}
        assert store.spent("r2") == {"x": Spent(1, 8, 80)}
        assert store.spent("r3") == {}


@pytest.mark.parametrize(
    "response",
    [{}, {"usage": None}, {"usage": [1]}, used(None, "many"), used(-1, 2**70), used(1.5, [])],
)
def test_a_usage_that_is_none_counts_as_no_tokens(response):
    with RequestStore(":memory:") as store:
        put(store, "k", response, run_id="r")
        assert store.spent("r") == {"m": Spent(1, 0, 0)}


def test_sums_are_made_without_reading_an_answer(path):
    RequestStore(path).close()
    plan = sql(path, f"EXPLAIN QUERY PLAN {SPENT.format(table='answers')}", "r")
    assert len(plan) == 1
    assert "COVERING INDEX spent (run_id=?)" in plan[0][-1]


def test_answers_take_no_more_bytes_than_their_text(path):
    response = {"choices": [{"message": {"content": "世界" * 50}}]}
    with RequestStore(path) as store:
        put(store, "k", response)
        assert store.get("k") == response
    ((kept,),) = sql(path, "SELECT CAST(response AS BLOB) FROM answers")
    frame = len('{"choices":[{"message":{"content":""}}]}')
    assert len(kept) == frame + 3 * 2 * 50  # UTF-8, neither spaces nor escapes


BATCH = StoredBatch("b1", "sh", "m", "host:1", "r", "validating", 5.0, ("k1", "k2"))


def test_batches_are_kept_with_their_state_oldest_first(path):
    older = StoredBatch("b0", "sh0", "m", "host:1", "r", "in_progress", 4.0, ("k3",))
    with RequestStore(path) as store:
        store.add_batch(BATCH)
        store.add_batch(older)
        store.add_batch(BATCH)  # known already
    with RequestStore(path) as store:
        assert store.batches() == [older, BATCH]
        done = store.update_batch(BATCH, "completed", "at the server")
        assert (done.state, done.id) == ("completed", "at the server")
        assert store.batches() == [older, done]
        assert store.update_batch(done, "read").id == "at the server"
        assert [batch.open for batch in store.batches()] == [True, False]


def test_a_full_disk_is_named_and_takes_nothing_with_it(path):
    with RequestStore(path) as store:
        put(store, "k", ANSWER)
        # SQLite reports a connection's page limit as it reports a full disk: SQLITE_FULL
        pages = store.db.execute("PRAGMA page_count").fetchone()[0]
        store.db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match=r"disk is full: free space.*the same command again"):
            put(store, "big", {"text": "x" * 100_000})
        assert store.get("k") == ANSWER
        store.db.execute("PRAGMA max_page_count = 100000")
        put(store, "big", {"text": "x" * 100_000})
    with RequestStore(path) as store:
        assert len(store) == 2


def test_room_is_looked_for_before_the_disk_is_full_so_that_answers_under_way_still_fit(
    path, monkeypatch
):
    with RequestStore(path) as store:
        monkeypatch.setattr(store_module, "free_bytes", lambda _: 3 * 2**20)
        with pytest.raises(StoreError, match=r"only 3 MB are free.*free space"):
            store.check_room()
        put(store, "under way", ANSWER)
        assert "under way" in store
    with pytest.raises(StoreError, match="only 3 MB are free"):
        RequestStore(path)


def test_a_store_that_may_not_be_written_says_how_to_mend_that(path):
    with RequestStore(path) as store:
        store.db.execute("PRAGMA query_only = ON")  # SQLITE_READONLY, as for a read-only file
        with pytest.raises(StoreError, match="make the file and its folder writable"):
            put(store, "k", ANSWER)


def damage(path, where):
    """Overwrite one page in the middle of a store of many."""
    with RequestStore(path) as store:
        store.put_many([StoredAnswer(f"{n:04}", "m", {"text": "x" * 3000}) for n in range(60)])
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * where) // 4096 * 4096)
        file.write(b"\xff" * 4096)


def test_a_damaged_page_is_found_when_the_store_is_opened_and_the_rescue_is_named(tmp_path):
    path = tmp_path / "s.sqlite"
    damage(path, 0.5)
    assert_refused(path, r"(damaged|malformed).*\.recover")


def test_damage_in_a_store_too_large_to_be_read_through_is_reported_when_it_is_met(
    tmp_path, monkeypatch
):
    path = tmp_path / "s.sqlite"
    damage(path, 0.5)
    monkeypatch.setattr(store_file, "CHECKED_WHOLE_BYTES", 1000)
    with RequestStore(path) as store, pytest.raises(StoreError, match=r"malformed.*recover"):
        for n in range(60):
            store.get(f"{n:04}")


def test_a_large_store_whose_end_is_damaged_is_refused_when_it_is_opened(tmp_path, monkeypatch):
    path = tmp_path / "s.sqlite"
    damage(path, 0.999)
    monkeypatch.setattr(store_file, "CHECKED_WHOLE_BYTES", 1000)
    assert_refused(path, r"malformed.*recover")


def test_a_store_that_was_cut_short_is_refused(tmp_path):
    path = tmp_path / "s.sqlite"
    damage(path, 0.5)
    os.truncate(path, path.stat().st_size // 2)
    assert_refused(path, r"malformed.*recover")


BROKEN_OFF = [
    {"choices": []},
    {"choices": [{"message": {"content": "half"}, "finish_reason": "abort"}]},
    {"choices": [{"message": {"content": "half"}, "finish_reason": None}]},
    {"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"code": 502}}]},
]


@pytest.mark.parametrize("kept", BROKEN_OFF)
def test_what_broke_off_and_was_kept_by_an_earlier_version_is_no_answer_and_makes_way(path, kept):
    request = ask_for("q")
    with RequestStore(path) as store:
        put(store, "other", whole("as it was"), run_id="r")
        paid = kept | {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}
        put(store, request.key, paid, run_id="r")  # as version 0.1 did
        assert store.answer(request) is None
        failed_before = store.failed_answer(request)
        assert failed_before.completion is None
        assert failed_before.failure
        put(store, request.key, used(30, 20), run_id="r")
        assert store.answer(request).completion.text == "hello"
        # both were paid for, and so was the one beside them
        assert store.spent("r") == {"m": Spent(3, 33, 22)}
    with RequestStore(path) as store:
        assert store.answer(request).completion.text == "hello"
        assert store.get("other") == whole("as it was")


@pytest.mark.parametrize("kept", BROKEN_OFF)
def test_a_whole_answer_of_another_store_takes_the_place_of_one_that_broke_off(tmp_path, kept):
    request = ask_for("q")
    with RequestStore(tmp_path / "theirs.sqlite") as store:
        put(store, request.key, used(30, 20), run_id="part")
        store.put_broken_off([StoredAnswer("else", "m", kept | used(4, 5))], "part")
    with RequestStore(tmp_path / "mine.sqlite") as store:
        put(store, request.key, kept, run_id="whole")
        for answers in (1, 0):  # a merge may be made again
            taken = store.take_over(tmp_path / "theirs.sqlite", "part", "whole")
            assert (taken.answers, taken.conflicts) == (answers, 0)
            assert store.answer(request).completion.text == "hello"
            assert store.spent("whole") == {"m": Spent(3, 34, 25)}


def journal(path):
    with RequestStore(path):
        return sql(path, "PRAGMA journal_mode")[0][0]


def test_on_a_network_file_system_a_store_keeps_a_rollback_journal_and_says_so(
    path, monkeypatch, capsys
):
    assert journal(path) == "wal"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(store_file, "file_system", lambda _: "nfs4")
    assert journal(path) == "delete"
    assert "network file system (nfs4)" in capsys.readouterr().err
    with RequestStore(path) as store:
        put(store, "k", ANSWER)
        assert "k" in store


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "NFS", "cifs", "lustre", "gpfs", "fuse.sshfs"])
def test_file_systems_of_other_machines_are_known(kind):
    assert store_file.is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "apfs", "tmpfs", "overlay", "fuseblk", ""])
def test_file_systems_of_this_machine_are_known(kind):
    assert not store_file.is_network(kind)


def test_a_folder_lies_on_the_last_and_deepest_disk_that_holds_it(tmp_path, monkeypatch):
    def disk(mountpoint, kind):
        return SimpleNamespace(mountpoint=str(mountpoint), fstype=kind)

    listed = [disk(tmp_path / "a", "nfs4"), disk("/", "ext4"), disk(tmp_path / "ab", "cifs")]
    monkeypatch.setattr(store_file.psutil, "disk_partitions", lambda all: listed)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert store_file.file_system(tmp_path / "a" / "b") == "nfs4"
    assert store_file.file_system(tmp_path) == "ext4"
    listed.append(disk(tmp_path / "a", "xfs"))  # mounted over the other
    assert store_file.file_system(tmp_path / "a" / "b") == "xfs"


def test_a_store_takes_over_the_answers_and_batches_of_another(tmp_path):
    mine, theirs = tmp_path / "mine.sqlite", tmp_path / "theirs.sqlite"
    with RequestStore(theirs) as store:
        put(store, "a", used(1, 1), run_id="part")
        put(store, "b", used(2, 2), run_id="another")
        put(store, "c", whole("no"), run_id="part")
        store.add_batch(replace(BATCH, run_id="part"))
    before = theirs.read_bytes()
    with RequestStore(mine) as store:
        put(store, "c", whole("yes"), run_id="whole")
        put(store, "b", used(2, 2), run_id="another")
        taken = store.take_over(theirs, "part", "whole")
        assert (taken.answers, taken.conflicts) == (1, 1)
        assert store.get("a") == used(1, 1)
        assert store.get("c") == whole("yes")
        assert store.spent("whole") == {"m": Spent(2, 1, 1)}
        assert store.batches() == [replace(BATCH, run_id="whole")]
        again = store.take_over(theirs, "part", "whole")
        assert (again.answers, again.conflicts) == (0, 1)
    assert theirs.read_bytes() == before


def failed(text, reason):
    return Answer(ask_for(text), None, reason)


def test_failures_are_kept_with_their_last_reason_and_are_no_answers(path):
    with RequestStore(path) as store:
        store.put_failures([failed("a", "first"), failed("b", "other")])
        store.put_failures([failed("a", "last")])
        store.put_failures([])
    with RequestStore(path) as store:
        assert store.failed_answer(ask_for("a")) == failed("a", "last")
        assert store.failed_answer(ask_for("b")) == failed("b", "other")
        assert store.failed_answer(ask_for("c")) is None
        assert store.answer(ask_for("a")) is None
        assert len(store) == 0


def make_older(path):
    """A store as it was before failures had a table."""
    with RequestStore(path) as store:
        put(store, "k", ANSWER, run_id="part")
        store.add_batch(BATCH)
    sql(path, "DROP TABLE failures")


def test_a_store_from_before_failures_were_kept_opens_with_all_that_it_holds(path):
    make_older(path)
    with RequestStore(path) as store:
        assert store.get("k") == ANSWER
        assert store.batches() == [BATCH]
        store.put_failures([failed("a", "no")])
        assert store.failed_answer(ask_for("a")) == failed("a", "no")


def test_a_store_takes_over_failures_and_the_later_reason_stays(tmp_path):
    theirs, mine = tmp_path / "theirs.sqlite", tmp_path / "mine.sqlite"
    with RequestStore(mine) as store:
        store.put_failures([failed("a", "mine, earlier")])
    with RequestStore(theirs) as store:
        store.put_failures([failed(text, "theirs") for text in "abc"])
    with RequestStore(mine) as store:
        store.put_failures([failed("c", "mine, later")])
    make_older(older := tmp_path / "older.sqlite")
    with RequestStore(mine) as store:
        for other in (theirs, older):
            store.take_over(other, "part", "whole")
        reasons = [store.failed_answer(ask_for(text)).failure for text in "abc"]
        assert reasons == ["theirs", "theirs", "mine, later"]
        assert store.get("k") == ANSWER


def test_a_store_that_is_not_there_or_is_none_is_not_taken_over(tmp_path):
    (tmp_path / "notes.txt").write_text("dear diary, " * 500)
    with RequestStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(StoreError, match="no such request store"):
            store.take_over(tmp_path / "gone.sqlite", "r", "r")
        with pytest.raises(StoreError, match="not a database"):
            store.take_over(tmp_path / "notes.txt", "r", "r")
        put(store, "k", ANSWER)
        assert len(store) == 1
    assert not (tmp_path / "gone.sqlite").exists()
