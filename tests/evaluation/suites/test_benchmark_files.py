"""Files of benchmarks: what they may look like, and what is wrong with others."""

import gzip
import json

import pytest

from clair_apo.errors import DataError
from clair_apo.evaluation.suites import benchmark_files
from clair_apo.evaluation.suites.base import OtherFormatError
from clair_apo.evaluation.suites.benchmark_files import (
    ANNOTATIONS,
    GSM8K_TEST,
    MIXEVAL,
    read_mapping,
    read_rows,
    recorded_rows,
)
from tests.helpers.evaluation import recorded, write_rows

ROWS = [{"question": "1 + 1?", "answer": "#### 2"}, {"question": "2 + 2?", "answer": "#### 4"}]


def test_a_list_and_lines_plain_and_packed_hold_the_same(tmp_path):
    lines, listed = "\n".join(json.dumps(row) for row in ROWS), json.dumps(ROWS, indent=1)
    for name, text in {"a.jsonl": lines, "b.json": listed}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            assert [dict(row.values) for row in read_rows(path)] == ROWS
    assert read_rows(tmp_path / "a.jsonl")[1].where == f"{tmp_path}/a.jsonl:2"
    assert read_rows(tmp_path / "b.json")[1].where == f"{tmp_path}/b.json: row 2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": ', "x:2: not JSON"),
        (b'[{"a": 1},\n {]', "x: not JSON .*line 2"),
        (b'[{"a": 1}, 7]', "x: row 2: expected a JSON object, found int"),
        (b"", "x: holds no rows"),
        (b"[]", "x: holds no rows"),
        (b"\xff\xfe", "x: not UTF-8"),
        (b"[" * 100_000, "x: not JSON"),
    ],
)
def test_what_is_no_file_of_rows_is_named(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "x")


def test_a_file_that_is_missing_or_cannot_be_unpacked_is_named(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_rows(tmp_path / "nowhere.jsonl")
    whole = gzip.compress(json.dumps(ROWS * 100).encode())
    for name, content in {
        "cut": whole[:60],
        "other": b"no gzip",
        "bad": whole[:20] + whole[30:],
    }.items():
        path = tmp_path / f"{name}.gz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}\.gz: cannot be read"):
            read_rows(path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_files, "MAX_BYTES", 2**20)
    (tmp_path / "x.gz").write_bytes(gzip.compress(b" " * 2**21))
    with pytest.raises(DataError, match="larger than 1 MiB"):
        read_rows(tmp_path / "x.gz")


def test_an_object_of_items_is_read_and_a_list_is_none(tmp_path):
    (tmp_path / "x.json").write_text('{"0": {"a": 1}}')
    assert read_mapping(tmp_path / "x.json") == {"0": {"a": 1}}
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(DataError, match="found list"):
        read_mapping(tmp_path / "x.json")


def test_of_several_files_only_those_of_the_benchmark_are_read(tmp_path):
    sums = write_rows(tmp_path / "sums.jsonl", ROWS)
    other = write_rows(tmp_path / "other.jsonl", [{"prompt": "x", "answer": "y"}])
    model = recorded("m", other, sums)
    assert len(recorded_rows(model, GSM8K_TEST)) == 2
    with pytest.raises(OtherFormatError, match=r"models\.m: .*other\.jsonl: looks like answers to"):
        recorded_rows(model, MIXEVAL)


def test_a_file_of_nothing_known_is_told_by_its_fields(tmp_path):
    model = recorded("m", write_rows(tmp_path / "x.jsonl", [{"a": 1, "b": 2}]))
    with pytest.raises(OtherFormatError, match="row has 'a', 'b'; expected AlpacaEval annot"):
        recorded_rows(model, ANNOTATIONS)


def test_a_file_whose_first_row_lacks_a_field_is_still_of_its_benchmark(tmp_path):
    rows = [{"problem_type": "free-form"}, {"problem_type": "free-form", "benchmark_name": "x"}]
    model = recorded("m", write_rows(tmp_path / "x.jsonl", rows))
    assert len(recorded_rows(model, MIXEVAL)) == 2
