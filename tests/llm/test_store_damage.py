"""The request store's checksums: damage to any row is noticed, and older stores are given them."""

import random
import sqlite3
from pathlib import Path

import pytest

from clair_apo.errors import StoreError
from clair_apo.llm import Answer, RequestStore, StoredAnswer, store_checksums
from clair_apo.llm import store_file as store_file_module
from clair_apo.llm.store_schema import Spent, StoredBatch
from tests.helpers.llm_requests import ask_for

VERSION_2 = Path(__file__).parent / "stores" / "version_2.sql"
BATCH = StoredBatch("b1", "sh", "m", "host:1", "r1", "validating", 5.0, ("k1", "k2"))
KEYS = [f"{n:064x}" for n in range(5)]


def response(key):
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    return {"choices": [{"message": {"content": f"hello {key}"}}], "usage": usage}


@pytest.fixture
def path(tmp_path):
    """A store with answers, a batch and a failure, closed."""
    with RequestStore(tmp_path / "s.sqlite") as store:
        store.put_many([StoredAnswer(key, "m", response(key)) for key in KEYS], "r1")
        store.add_batch(BATCH)
        store.put_failures([Answer(ask_for("a"), None, "no room at the server")])
    return tmp_path / "s.sqlite"


def all_of(store):
    return (
        [store.get(key) for key in KEYS],
        len(store),
        store.spent("r1"),
        store.batches(),
        store.failed_answer(ask_for("a")),
    )


def run_sql(path, *statements):
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def test_no_flipped_bit_of_a_store_changes_what_it_says(path):
    with RequestStore(path) as store:
        sound = all_of(store)
    before = path.read_bytes()
    dice = random.Random(5)
    refused = 0
    for _ in range(150):
        content = bytearray(before)
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
        try:
            with RequestStore(path) as store:
                assert all_of(store) == sound  # a bit that stands for nothing
        except StoreError:
            refused += 1
    assert refused > 5


def flip(path, text, bit=1):
    content = bytearray(path.read_bytes())
    content[content.index(text.encode())] ^= bit
    path.write_bytes(content)


def test_a_damaged_answer_is_named_when_the_store_is_opened_and_nothing_is_changed(path):
    flip(path, f"hello {KEYS[2]}")
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        RequestStore(path)
    assert f"the answer to request {KEYS[2]} is not as it was stored" in str(caught.value)
    assert str(path) in str(caught.value)
    assert "DELETE FROM answers WHERE rowid IN (3)" in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE answers SET model = 'n' WHERE rowid = 2", KEYS[1]),
        ("UPDATE answers SET run_id = 'r2' WHERE rowid = 2", KEYS[1]),
        ("UPDATE answers SET prompt_tokens = 4 WHERE rowid = 2", KEYS[1]),
        ("UPDATE answers SET completion_tokens = 6 WHERE rowid = 2", KEYS[1]),
        ("UPDATE answers SET answered_at = answered_at + 1 WHERE rowid = 2", KEYS[1]),
        ("UPDATE answers SET key = 'other' WHERE rowid = 2", "other"),
        ("UPDATE answers SET response = CAST(response AS BLOB) WHERE rowid = 2", KEYS[1]),
        ("UPDATE answers SET checksum = NULL WHERE rowid = 2", KEYS[1]),
        ("UPDATE batches SET state = 'read'", "the batch b1"),
        ("UPDATE batches SET keys = '[\"k1\"]'", "the batch b1"),
        ("UPDATE failures SET reason = 'yes'", "failure of request"),
    ],
)
def test_every_column_of_every_table_counts(path, change, named):
    run_sql(path, change)
    with pytest.raises(StoreError, match=named):
        RequestStore(path)


def test_of_a_store_too_large_to_be_read_through_an_answer_is_compared_when_it_is_read(
    path, monkeypatch
):
    monkeypatch.setattr(store_file_module, "CHECKED_WHOLE_BYTES", 1000)
    flip(path, f"hello {KEYS[2]}")
    run_sql(path, "UPDATE batches SET host = 'h'", "UPDATE failures SET reason = 'yes'")
    with RequestStore(path) as store:
        assert store.get(KEYS[1]) == response(KEYS[1])
        with pytest.raises(StoreError, match=f"{KEYS[2]} is not as it was stored"):
            store.get(KEYS[2])
        with pytest.raises(StoreError, match="the batch b1 is not as it was stored"):
            store.batches()
        with pytest.raises(StoreError, match=r"the failure of request .* is not as it was"):
            store.failed_answer(ask_for("a"))


def advised(error):
    return str(error).split("sqlite3 FILE ")[1].split("`")[0].strip('"')


def test_what_the_message_advises_forgets_the_damaged_answers_and_no_other(path):
    flip(path, f"hello {KEYS[2]}")
    flip(path, f"hello {KEYS[4]}", bit=0x80)  # no UTF-8 any more
    with pytest.raises(StoreError, match="and 1 more") as caught:
        RequestStore(path)
    run_sql(path, *advised(caught.value).split(";"))
    with RequestStore(path) as store:
        assert [key for key in KEYS if key not in store] == [KEYS[2], KEYS[4]]
        assert store.get(KEYS[0]) == response(KEYS[0])


def test_a_damaged_key_is_found_as_it_stands_and_can_be_forgotten(path):
    flip(path, KEYS[3] + "mr1")  # the table's row; the index still holds the key as it was
    with pytest.raises(StoreError, match=r"rowid IN \(4\)") as caught:
        RequestStore(path)
    run_sql(path, *advised(caught.value).split(";"))
    with RequestStore(path) as store:
        assert [key for key in KEYS if key not in store] == [KEYS[3]]


def test_an_index_that_lost_a_key_is_damage_that_the_rows_mend(path):
    content = bytearray(path.read_bytes())
    key = KEYS[3].encode()
    places = [n for n in range(len(content)) if content.startswith(key, n)]
    in_row = (content.index(key + b"mr1"), content.index(b"hello " + key) + len(b"hello "))
    (in_index,) = set(places) - set(in_row)
    content[in_index] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="missing from index") as caught:
        RequestStore(path)
    assert advised(caught.value) == "REINDEX"
    run_sql(path, "REINDEX")
    with RequestStore(path) as store:
        assert store.get(KEYS[3]) == response(KEYS[3])


def test_a_store_whose_rows_lost_their_checksums_is_damaged(path):
    run_sql(path, "ALTER TABLE answers RENAME COLUMN checksum TO checksun")
    with pytest.raises(StoreError, match="table answers has lost its checksums"):
        RequestStore(path)


def test_what_is_written_later_has_checksums_too(path):
    with RequestStore(path) as store:
        store.update_batch(BATCH, "completed", "at the server")
        store.put_failures([Answer(ask_for("a"), None, "another reason")])
    with RequestStore(path) as store:  # which reads all rows
        assert store.batches()[0].id == "at the server"
        assert store.failed_answer(ask_for("a")).failure == "another reason"


def test_a_damaged_answer_of_another_store_is_not_taken_over(path, tmp_path, monkeypatch):
    monkeypatch.setattr(store_file_module, "CHECKED_WHOLE_BYTES", 1000)
    flip(path, f"hello {KEYS[2]}")
    with RequestStore(tmp_path / "mine.sqlite") as store:
        with pytest.raises(StoreError, match=rf"{path}: .*{KEYS[2]} is not as it was stored"):
            store.take_over(path, "r1", "whole")
        assert len(store) == 0


def test_what_is_taken_over_has_checksums_under_its_new_run(path, tmp_path):
    with RequestStore(tmp_path / "mine.sqlite") as store:
        store.take_over(path, "r1", "whole")
    with RequestStore(tmp_path / "mine.sqlite") as store:
        assert store.spent("whole") == {"m": Spent(5, 25, 35)}
        assert store.get(KEYS[4]) == response(KEYS[4])


@pytest.fixture
def older(tmp_path):
    """A store of version 2."""
    db = sqlite3.connect(tmp_path / "older.sqlite")
    db.executescript(VERSION_2.read_text(encoding="utf-8"))
    db.close()
    return tmp_path / "older.sqlite"


def check_older(store):
    said = store.get("a")["choices"][0]["message"]["content"]
    assert said == "Grüße, 世界"
    assert store.get("b") == {"n": 1.5, "half": "\ud83d"}
    assert store.spent("r1") == {"m": Spent(1, 5, 7), "n@1": Spent(1, 0, 0)}
    assert store.batches() == [BATCH]
    assert store.failed_answer(ask_for("a")).failure == "no"


def test_a_store_from_before_there_were_checksums_is_given_them_once(older):
    with RequestStore(older) as store:
        check_older(store)
    brought = older.read_bytes()
    with RequestStore(older) as store:
        check_older(store)
    assert older.read_bytes() == brought
    flip(older, "Grüße")
    with pytest.raises(StoreError, match="the answer to request a is not as it was stored"):
        RequestStore(older)


def test_a_store_is_brought_up_to_date_as_a_whole_or_not_at_all(older, monkeypatch):
    calls = []

    def fail_at_the_third(values):
        calls.append(values)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return "0" * 16

    with monkeypatch.context() as patch:
        patch.setattr(store_checksums, "checksum", fail_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            RequestStore(older)
    columns = sqlite3.connect(older).execute("PRAGMA table_info(answers)").fetchall()
    assert "checksum" not in [column[1] for column in columns]
    with RequestStore(older) as store:
        check_older(store)


def open_for_reading(monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(
        store_file_module.sqlite3,
        "connect",
        lambda path, **how: connect(f"file:{path}?mode=ro", uri=True, **how),
    )


def test_an_older_store_that_cannot_be_written_is_read_as_it_is(older, monkeypatch):
    before = older.read_bytes()
    open_for_reading(monkeypatch)
    with RequestStore(older) as store:
        check_older(store)
        with pytest.raises(StoreError, match="make the file and its folder writable"):
            store.put_many([StoredAnswer("c", "m", {})])
    assert older.read_bytes() == before


def test_a_store_that_cannot_be_written_is_compared_all_the_same(path, monkeypatch):
    with monkeypatch.context() as patch:
        open_for_reading(patch)
        with RequestStore(path) as store:
            assert store.get(KEYS[0]) == response(KEYS[0])
    flip(path, f"hello {KEYS[0]}")
    open_for_reading(monkeypatch)
    with pytest.raises(StoreError, match=f"{KEYS[0]} is not as it was stored"):
        RequestStore(path)


def test_the_answers_of_an_older_store_are_taken_over(older, tmp_path):
    with RequestStore(tmp_path / "mine.sqlite") as store:
        store.take_over(older, "r1", "whole")
        assert store.spent("whole")["m"] == Spent(1, 5, 7)
    with RequestStore(tmp_path / "mine.sqlite") as store:
        assert store.get("b") == {"n": 1.5, "half": "\ud83d"}


@pytest.mark.parametrize(
    ("text", "told"), [("'{'", "a is no JSON:"), ("'[]'", "a is no JSON object")]
)
def test_an_answer_that_was_damaged_before_there_were_checksums_is_refused_when_it_is_read(
    older, text, told
):
    run_sql(older, f"UPDATE answers SET response = {text} WHERE key = 'a'")
    with RequestStore(older) as store, pytest.raises(StoreError, match=rf"{told}.*recover"):
        store.get("a")


def test_an_answer_that_was_no_utf8_before_there_were_checksums_is_named(older):
    run_sql(older, "UPDATE answers SET response = CAST(x'7bff7d' AS TEXT) WHERE key = 'a'")
    with RequestStore(older) as store, pytest.raises(StoreError, match="request a is not as it"):
        store.get("a")
