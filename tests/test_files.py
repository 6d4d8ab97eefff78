"""Files of records: named where a line is wrong, written whole or not at all."""

import errno
import json
import os
import resource

import pytest

from clair_apo.errors import DataError, WriteError
from clair_apo.files import atomic_writer, read_json_rows, read_jsonl, write_jsonl
from clair_apo.records import Dropped, DropReason, Message, Stage


def test_a_line_that_is_no_such_record_is_named_with_its_place(tmp_path):
    path = tmp_path / "d.jsonl"
    row = Dropped(id="1", stage=Stage.PAIR, reason=DropReason.NO_OP, detail="d", raw="r")
    wrong = json.loads(row.model_dump_json()) | {"reason": "boring"}
    path.write_text(f"{row.model_dump_json()}\n\n{json.dumps(wrong)}\n")
    with pytest.raises(DataError, match=r"d\.jsonl:3: not a Dropped: reason: Input should be"):
        list(read_jsonl(path, Dropped))
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"d\.jsonl:1: not a Dropped: id: Field required"):
        list(read_jsonl(path, Dropped))
    path.write_text("{\n")
    with pytest.raises(DataError, match=r"d\.jsonl:1: not a Dropped: the line: Invalid JSON"):
        list(read_jsonl(path, Dropped))
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read \(No such file"):
        list(read_jsonl(tmp_path / "gone.jsonl", Dropped))


def test_foreign_rows_carry_the_number_of_their_line(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"a": 1}\n\n{"b": 2}\n')
    assert list(read_json_rows(path)) == [(1, {"a": 1}), (3, {"b": 2})]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "f.txt"
    with atomic_writer(path) as file:
        file.write("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), atomic_writer(path) as file:
        file.write("half of the sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["f.txt"]


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with (
            pytest.raises(WriteError, match=r"f\.txt: cannot be written \(File too large\)"),
            atomic_writer(path) as file,
        ):
            file.write("x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_an_error_of_something_else_in_the_block_is_not_called_one_of_the_file(tmp_path):
    for error in (OSError(errno.EOVERFLOW, "too large for its type"), ConnectionResetError("gone")):
        with pytest.raises(OSError) as caught, atomic_writer(tmp_path / "f.txt") as file:
            file.write("text")
            raise error
        assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free space there"),
        (errno.EDQUOT, "free space there"),
        (errno.EACCES, "make it writable"),
        (errno.EROFS, "make it writable"),
        (errno.EIO, "name another folder"),
        (errno.ENAMETOOLONG, "name another folder"),
        (errno.EOVERFLOW, "name another folder"),
    ],
)
def test_only_a_full_disk_is_to_be_emptied(tmp_path, monkeypatch, code, advice):
    def fails(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    with (
        pytest.raises(WriteError, match=rf"f\.txt: .*\({os.strerror(code)}\); {advice}") as caught,
        atomic_writer(tmp_path / "f.txt") as file,
    ):
        file.write("text")
    assert ("free space" in str(caught.value)) is (code in (errno.ENOSPC, errno.EDQUOT))


def test_a_disk_that_is_full_when_the_file_is_closed_is_one_sentence(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (
        pytest.raises(WriteError, match=r"f\.txt: cannot be written \(File too large\)"),
        atomic_writer(tmp_path / "f.txt") as file,
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        try:
            file.write("still in the buffer")
        finally:
            try:
                file.close()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_place_where_no_file_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(WriteError, match=r"file/f\.txt: cannot be written"),
        atomic_writer(tmp_path / "file" / "f.txt") as file,
    ):
        file.write("text")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_who_may_read_a_file_is_what_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_writer(tmp_path / "f.txt") as file:
            file.write("text")
    finally:
        os.umask(before)
    assert (tmp_path / "f.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_records_that_cannot_be_made_leave_the_old_file(tmp_path):
    path = tmp_path / "m.jsonl"
    write_jsonl(path, [Message(role="user", content="old")])

    def rows():
        yield Message(role="user", content="new")
        raise RuntimeError("the model is gone")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert [m.content for m in read_jsonl(path, Message)] == ["old"]
    assert len(list(tmp_path.iterdir())) == 1
