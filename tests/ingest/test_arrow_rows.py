"""Parquet and Arrow: columns that nobody asks for stop nobody, and bad values are named."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from pyarrow import parquet

from clair_apo.clair import PromptsConfig, load_prompts
from clair_apo.errors import DataError
from clair_apo.ingest.rows import read_rows


def bad_utf8(*texts):
    """A column of texts, bytes that are no UTF-8 among them."""
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    buffers = [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


TOO_LATE = pa.array([0, 2**62], pa.timestamp("us"))
NOWHERE = pa.array([0, 0], pa.timestamp("us", tz="Mars/Olympus"))
NO_UTF8 = bad_utf8(b"sound", b"a\xff")
TOO_LONG = pa.array([0, 2**62], pa.duration("s"))
ODD = {"at": TOO_LATE, "there": NOWHERE, "x": NO_UTF8, "took": TOO_LONG}


def prompts(path, **options):
    return [
        row.messages[-1].content for row in load_prompts(PromptsConfig(path=str(path), **options))
    ]


def write(path, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


def test_columns_that_no_recipe_uses_are_not_converted(tmp_path):
    path = write(tmp_path / "p.parquet", prompt=["P1", "P2"], **ODD)
    assert prompts(path) == ["P1", "P2"]
    Dataset(pa.table({"prompt": ["P1", "P2"], **ODD})).save_to_disk(tmp_path / "saved")
    assert prompts(tmp_path / "saved") == ["P1", "P2"]


def test_a_value_is_converted_when_it_is_asked_for_and_not_before(tmp_path):
    path = write(tmp_path / "p.parquet", prompt=["P1", "P2"], **ODD)
    rows = dict(read_rows(str(path)))
    row = rows[f"{path}: row 1"]
    assert list(row) == ["prompt", *ODD]
    assert len(row) == 1 + len(ODD)
    assert "at" in row
    assert "bt" not in row
    assert row["prompt"] == "P2"
    assert row.get("bt") is None
    assert rows[f"{path}: row 0"]["at"] == datetime.datetime(1970, 1, 1)
    with pytest.raises(DataError, match=r"p\.parquet: row 1: column 'at' cannot be read \(.+\);"):
        row["at"]


def test_a_prompt_column_further_down_the_list_is_not_read_where_an_earlier_one_is_there(tmp_path):
    path = write(tmp_path / "p.parquet", prompt=["P1", "P2"], text=NO_UTF8)
    assert prompts(path) == ["P1", "P2"]


@pytest.mark.parametrize("column", ["prompt", "response"])
def test_a_bad_value_in_a_column_that_is_needed_is_named_with_row_and_column(tmp_path, column):
    columns = {"prompt": ["P1", "P2"], column: NO_UTF8}
    path = write(tmp_path / "p.parquet", **columns)
    Dataset(pa.table(columns)).save_to_disk(tmp_path / "saved")
    for place in (path, tmp_path / "saved"):
        with pytest.raises(DataError) as caught:
            prompts(place)
        assert f"{place}: row 1: column '{column}' cannot be read" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_pictures_are_not_decoded(tmp_path):
    content = {"prompt": ["P"], "image": [{"bytes": b"no image", "path": None}]}
    features = Features({"prompt": Value("string"), "image": Image()})
    data = Dataset.from_dict(content, features=features)
    data.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": data}).save_to_disk(tmp_path / "splits")
    data.to_parquet(tmp_path / "p.parquet")
    (tmp_path / "files").mkdir()
    data.to_parquet(tmp_path / "files" / "train.parquet")
    for place in ("saved", "splits", "p.parquet", "files"):
        assert prompts(tmp_path / place) == ["P"], place


def test_a_picture_for_a_prompt_is_refused_with_its_row(tmp_path):
    content = {"prompt": [{"bytes": b"no image", "path": None}]}
    data = Dataset.from_dict(content, features=Features({"prompt": Image()}))
    data.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"saved: row 0: 'prompt' must be text .*found \{"):
        prompts(tmp_path / "saved")


def test_the_rows_of_a_data_set_do_not_depend_on_the_format_it_was_saved_with(tmp_path):
    data = Dataset.from_dict({"prompt": ["P1", "P2"], "n": [1, 2]})
    shuffled = data.select([1, 0]).with_format("numpy", columns=["n"])
    shuffled.save_to_disk(tmp_path / "saved")
    assert prompts(tmp_path / "saved") == ["P2", "P1"]


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
)
def test_texts_are_texts_however_arrow_keeps_them(tmp_path, kind):
    column = pa.array(["P1", "P2"]).cast(kind)
    assert prompts(write(tmp_path / "p.parquet", prompt=column)) == ["P1", "P2"]


def test_nested_columns_are_read_whole(tmp_path):
    turns = [[{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]]
    answers = [[{"response": "a", "overall_score": 1.5}, {"response": "b", "overall_score": 2.5}]]
    path = write(tmp_path / "p.parquet", messages=turns, completions=answers)
    (prompt,) = load_prompts(PromptsConfig(path=str(path)))
    assert [(a.text, a.score) for a in prompt.given] == [("a", 1.5), ("b", 2.5)]


def test_a_named_column_is_read_whatever_its_letters(tmp_path):
    path = write(tmp_path / "p.parquet", **{"Topic.Name": ["T"], "prompt": ["P"]})
    assert prompts(path, column="Topic.Name") == ["T"]


def test_the_columns_that_there_are_are_named_where_none_is_a_prompt(tmp_path):
    path = write(tmp_path / "p.parquet", id=[1], at=TOO_LATE[1:])
    with pytest.raises(DataError, match=r"row 0: expected one of .*, found id, at$"):
        prompts(path)
    Dataset(pa.table({"id": [1], "at": TOO_LATE[1:]})).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"row 0: expected one of .*, found id, at$"):
        prompts(tmp_path / "saved")


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([["P"], ["Q"]], names=["prompt", "prompt"])
    parquet.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: .*'?prompt"):
        prompts(tmp_path / "p.parquet")


@pytest.mark.parametrize("damage", ["cut", "header", "page", "footer", "empty", "text"])
def test_a_damaged_parquet_file_is_one_sentence(tmp_path, damage):
    path = write(tmp_path / "p.parquet", prompt=[f"Question {n}?" * 50 for n in range(200)])
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "empty":
        content.clear()
    elif damage == "text":
        content[:] = b"prompt\nWhy?\n"
    else:
        start = {"header": 0, "page": 40, "footer": len(content) - 60}[damage]
        content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"p\.parquet: ") as caught:
        prompts(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "offsets", "state", "no files"])
def test_a_damaged_folder_of_datasets_is_one_sentence(tmp_path, damage):
    folder = tmp_path / "saved"
    Dataset.from_dict({"prompt": [f"Question {n}?" for n in range(200)]}).save_to_disk(folder)
    (arrow,) = folder.glob("*.arrow")
    content = bytearray(arrow.read_bytes())
    if damage == "cut":
        arrow.write_bytes(content[: len(content) // 2])
    elif damage == "offsets":  # where the texts' ends stand, each a few bytes after the other
        second, third = (len("Question 0?") * n for n in (1, 2))
        offsets = second.to_bytes(4, "little") + third.to_bytes(4, "little")
        at = content.index(offsets)
        content[at : at + 4] = (2**30).to_bytes(4, "little")
        arrow.write_bytes(content)
    elif damage == "state":
        (folder / "state.json").write_text("{")
    else:
        arrow.unlink()
    with pytest.raises(DataError, match="saved: ") as caught:
        prompts(folder)
    assert "\n" not in str(caught.value)


def test_test_sets_too_are_read_by_the_columns_that_count(tmp_path):
    questions = ["one two three four five six", "seven eight nine ten eleven twelve"]
    write(tmp_path / "test.parquet", Question=questions, **ODD)
    data = write(tmp_path / "p.parquet", prompt=["seven eight nine ten eleven twelve", "P"])
    config = PromptsConfig(path=str(data), contamination=(str(tmp_path / "test.parquet"),))
    assert [getattr(row, "reason", None) for row in load_prompts(config)] == ["contaminated", None]
