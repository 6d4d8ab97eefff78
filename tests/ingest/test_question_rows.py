"""Foreign rows of every usual form, and what a test set's row asks."""

import json

import pytest
from datasets import Dataset, DatasetDict

from clair_apo.errors import DataError
from clair_apo.ingest.rows import questions_from_row, read_rows

ROWS = [{"question": "Why?", "answer": "So."}, {"question": "How?", "answer": "Thus."}]
TURN = {"role": "user", "content": "Why?"}

JSON_FORMS = {
    "a list": (ROWS, ["row 0", "row 1"]),
    "an object of objects, as MixEval has it": (dict(zip("07", ROWS, strict=True)), "row 0|row 7"),
    "the list in an object, as BIG-bench has it": (
        {"canary": "c", "examples": ROWS},
        ["row 0", "row 1"],
    ),
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", JSON_FORMS)
def test_a_json_file_holds_its_rows_in_any_of_three_forms(tmp_path, form, indent):
    value, places = JSON_FORMS[form]
    places = places.split("|") if isinstance(places, str) else places
    path = tmp_path / "t.json"
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8-sig")
    assert list(read_rows(str(path))) == [
        (f"{path}: {place}", row) for place, row in zip(places, ROWS, strict=True)
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_a_json_file_may_hold_one_object_a_line_all_the_same(tmp_path, count):
    path = tmp_path / "t.json"
    rows = [{"messages": [TURN]}, {"question": {"text": "Why?"}, "meta": {}}][:count]
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    assert [row for _, row in read_rows(str(path))] == rows


def test_one_object_of_objects_with_a_question_in_it_is_one_row(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('{"question": {"text": "Why?"}, "answer": {"text": "So."}}\n')
    assert [place for place, _ in read_rows(str(path))] == [f"{path}:1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", r"t\.json:1: expected a JSON object, found list"),
        ('[{"a": 1},\n', r"t\.json:1: not JSON"),
        (b"\xff", r"t\.json:1: not UTF-8"),
    ],
)
def test_a_json_file_without_rows_is_refused_with_its_line(tmp_path, content, said):
    path = tmp_path / "t.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=said):
        list(read_rows(str(path)))


def test_of_several_splits_asked_for_the_first_that_is_there_is_read(tmp_path):
    splits = {"train": Dataset.from_list(ROWS[:1]), "validation": Dataset.from_list(ROWS[1:])}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    for split, data in splits.items():
        data.to_parquet(tmp_path / "files" / f"{split}.parquet")
    for folder in ("saved", "files"):
        name = str(tmp_path / folder)
        read = [row for _, row in read_rows(name, ("test", "validation", "train"))]
        assert read == ROWS[1:]
        with pytest.raises(DataError, match="has no split 'test' or 'dev', but train, validation"):
            list(read_rows(name, ("test", "dev")))


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"question": "Why?", "answer": "So.", "choices": ["a", "b"]}, ["Why?"]),
        ({"Problem": "Why?", "Solution": "So."}, ["Why?"]),
        ({"context": "A passage.", "prompt": "Why?", "options": ["a"]}, ["Why?"]),
        ({"turns": ["Why?", "And how?"]}, ["Why?", "And how?"]),
        ({"turns": [{"content": "Why?"}]}, ["Why?"]),
        ({"instruction": "Sum up.", "input": "A text."}, ["Sum up.", "A text."]),
        ({"messages": [TURN, {"role": "assistant", "content": "So."}, TURN]}, ["Why?", "Why?"]),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt"}]}, ["Why?"]),
        ({"messages": [{"role": None, "content": None, "value": "Why?"}]}, ["Why?"]),
        ({"question": None, "prompt": 3, "answer": "So."}, []),
    ],
)
def test_what_a_test_sets_row_asks_is_found_in_every_usual_form(row, asked):
    assert list(questions_from_row(row)) == asked
