"""The cache on disk: exact, found by content, safe with two writers, never damaged in silence."""

import json
import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from clair_apo.apo.reference.storage import (
    IDENTITY_FILE,
    PairTokenLogps,
    ReferenceIdentity,
    ReferenceStore,
    stored_references,
)
from clair_apo.errors import StoreError

IDENTITY = ReferenceIdentity(weights="aa", tokenizer="bb", dtype="float32")


def answers(*numbers: int) -> dict[bytes, PairTokenLogps]:
    """For each number a key, and answers of different lengths that only it has."""
    return {
        number.to_bytes(32, "big"): PairTokenLogps(
            -np.arange(1, 2 + number, dtype=np.float32) / 3,
            np.full(1 + number % 3, -number, np.float32),
        )
        for number in numbers
    }


@pytest.fixture
def store(tmp_path):
    return ReferenceStore(tmp_path / "cache", IDENTITY, "tiny")


def same(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for key in expected
        for a, b in zip(found[key], expected[key], strict=True)
    )


def shard(store) -> Path:
    (path,) = store.folder.glob("*.safetensors")
    return path


def test_what_was_kept_is_found_exactly_by_whoever_opens_it_next(store, tmp_path):
    store.add(answers(1, 2))
    store.add(answers(3))
    again = ReferenceStore(tmp_path / "cache", IDENTITY, "called otherwise")
    assert same(again.find(answers(1, 2, 3)), answers(1, 2, 3))
    assert same(again.find(answers(2, 9)), answers(2)), "what is not there is not found"


def test_float64_stays_float64(store):
    exact = {bytes(32): PairTokenLogps(np.array([-1 / 3]), np.array([-2 / 3]))}
    store.add(exact)
    assert same(store.find(exact), exact)


@pytest.mark.parametrize(
    "other", [{"weights": "ab"}, {"tokenizer": "bc"}, {"dtype": "bfloat16"}, {"format": 0}]
)
def test_nothing_is_found_for_another_reference(store, tmp_path, other):
    store.add(answers(1))
    stranger = ReferenceStore(tmp_path / "cache", IDENTITY.model_copy(update=other), "tiny")
    assert stranger.find(answers(1)) == {}


@pytest.mark.parametrize("position", [0, 9, 200, -1])
def test_a_file_with_one_changed_byte_is_named_and_not_used(store, caplog, position):
    store.add(answers(1, 2))
    content = bytearray(shard(store).read_bytes())
    content[position] ^= 1
    shard(store).write_bytes(content)
    with caplog.at_level(logging.WARNING, "clair_apo"):
        assert store.find(answers(1, 2)) == {}
    assert str(shard(store)) in caplog.text
    assert "damaged" in caplog.text
    store.add(answers(1, 2))
    assert same(store.find(answers(1, 2)), answers(1, 2)), "the same content mends the file"


def test_a_torn_file_is_not_used(store):
    store.add(answers(1))
    shard(store).write_bytes(shard(store).read_bytes()[:-3])
    assert store.find(answers(1)) == {}


def test_a_file_of_another_reference_is_not_used(store, tmp_path, caplog):
    stranger = ReferenceStore(
        tmp_path / "cache", IDENTITY.model_copy(update={"weights": "ab"}), "other"
    )
    stranger.add(answers(1))
    store.add(answers(2))
    shard(stranger).rename(store.folder / shard(stranger).name)
    assert same(store.find(answers(1, 2)), answers(2))
    assert f"belongs to reference {stranger.folder.name}" in caplog.text


def test_a_folder_that_speaks_of_another_reference_is_refused(store, tmp_path):
    store.add(answers(1))
    path = store.folder / IDENTITY_FILE
    content = json.loads(path.read_text())
    content["identity"]["weights"] = "ab"
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"speaks of reference .* delete the folder"):
        ReferenceStore(tmp_path / "cache", IDENTITY, "tiny")
    path.write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        ReferenceStore(tmp_path / "cache", IDENTITY, "tiny")


def test_a_writer_that_dies_leaves_no_file_under_a_name(store, monkeypatch):
    store.add(answers(1))

    def dies(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        store.add(answers(2))
    assert sorted(p.name for p in store.folder.iterdir()) == [shard(store).name, IDENTITY_FILE]


def _write(root: Path, numbers: range) -> None:
    for number in numbers:
        ReferenceStore(root, IDENTITY, "tiny").add(answers(number, number + 1))


def test_two_processes_write_at_once_and_nothing_is_lost(store, tmp_path):
    fork = multiprocessing.get_context("fork")
    writers = [
        fork.Process(target=_write, args=(tmp_path / "cache", range(start, start + 30)))
        for start in (0, 15)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):  # whatever is seen meanwhile is right
        found = store.find(answers(*range(46)))
        assert same(found, {key: answers(*range(46))[key] for key in found})
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    assert same(store.find(answers(*range(46))), answers(*range(46)))
    (seen,) = stored_references(tmp_path / "cache")
    assert (seen.pairs, seen.faults) == (46, ())


def test_a_place_that_cannot_be_written_is_named_with_the_key_to_change(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot be written .* reference_cache"):
        ReferenceStore(tmp_path / "cache", IDENTITY, "tiny").add(answers(1))


def test_the_list_of_references_counts_each_pair_once_and_names_faults(store, tmp_path):
    store.add(answers(1, 2))
    store.add(answers(2, 3))
    (seen,) = stored_references(tmp_path / "cache")
    lengths = [len(side) for pair in answers(1, 2, 3).values() for side in pair]
    assert (seen.facts.model, seen.pairs, seen.tokens) == ("tiny", 3, sum(lengths))
    assert seen.size == sum(p.stat().st_size for p in store.folder.glob("*.safetensors"))
    next(store.folder.glob("*.safetensors")).write_bytes(b"")
    assert len(stored_references(tmp_path / "cache")[0].faults) == 1


def test_where_there_is_no_cache_a_person_is_told_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match="clair-apo reference build"):
        stored_references(tmp_path)


def test_a_cache_of_the_first_format_opens_and_is_not_believed(store, tmp_path):
    first = IDENTITY.model_copy(update={"format": 1})
    old = ReferenceStore(tmp_path / "cache", first, "tiny")
    old.add(answers(1))
    assert store.folder != old.folder
    assert store.find(answers(1)) == {}
    assert f"({old.folder.name[:12]})" in str(store.earlier_format())
    assert "computed anew" in str(store.earlier_format())
    assert ReferenceStore(tmp_path / "cache", IDENTITY, "another").earlier_format() is None
    (known,) = stored_references(tmp_path / "cache")
    assert (known.pairs, known.faults) == (1, ())
    store.add(answers(1))
    assert store.earlier_format() is None, "said once: then the cache has the new one"


def test_what_is_not_to_be_kept_is_neither_found_nor_written(store, tmp_path):
    store.add(answers(1))
    unkept = ReferenceStore(tmp_path / "cache", IDENTITY, "tiny", keeps=False)
    assert unkept.find(answers(1)) == {}
    unkept.add(answers(2))
    assert store.find(answers(2)) == {}
