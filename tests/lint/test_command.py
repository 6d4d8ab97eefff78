"""`clair-apo lint` as a user runs it: table, files, exit status."""

import json

import pytest
from typer.testing import CliRunner

from clair_apo.cli import app
from tests.helpers.clair_runs import write_rows
from tests.helpers.lint_pairs import sound_pairs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = sound_pairs(30)
    write_rows(tmp_path / "sound.jsonl", rows)
    write_rows(tmp_path / "equal.jsonl", [*rows, rows[0] | {"chosen": "same", "rejected": "same"}])
    marked = rows[0] | {"prompt": "Another question that is asked?", "chosen": "Yes.<|im_end|>"}
    write_rows(tmp_path / "marked.jsonl", [*rows, marked])
    return tmp_path


def invoke(*args):
    return CliRunner().invoke(app, ["lint", *args])


@pytest.mark.parametrize(
    ("data", "fail_on", "status"),
    [
        ("sound", None, 0),
        ("sound", "warning", 0),
        ("marked", None, 0),
        ("marked", "warning", 1),
        ("marked", "never", 0),
        ("equal", None, 1),
        ("equal", "warning", 1),
        ("equal", "never", 0),
    ],
)
def test_the_exit_status_is_that_of_the_worst_finding(folder, data, fail_on, status):
    result = invoke(f"{data}.jsonl", *(["--fail_on", fail_on] if fail_on else []))
    assert result.exit_code == status, result.output
    assert (folder / "lint" / data / "lint.html").is_file()


def test_the_table_says_what_was_found_and_where_the_files_are(folder):
    result = invoke("equal.jsonl", "--out", "here")
    assert "31 pairs of 30 prompts: 1 error, 0 warnings, 2 notes" in result.output
    assert "identical_sides" in result.output and "3.2% [" in result.output
    assert "nothing found by: unreadable, empty_text" in result.output
    assert "page: here/lint.html" in result.output
    names = [one["name"] for one in json.loads((folder / "here/lint.json").read_text())["findings"]]
    assert names == ["identical_sides", "repeated_prompt", "length_gap"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["gone.jsonl"], "gone.jsonl: cannot be read"),
        (["sound.jsonl", "--max_length", "9"], "name the tokenizer"),
        (["sound.jsonl", "--tokenizer", "./gone"], "no such folder"),
        (["sound.jsonl", "--against", "./gone"], "./gone: there is no such file or folder"),
        (["sound.jsonl", "--fail_on", "note"], "note"),
        (["sound.jsonl", "--out", "sound.jsonl/x"], "cannot be written"),
    ],
)
def test_a_users_mistake_ends_with_two_and_leaves_nothing_behind(folder, args, message):
    before = sorted(folder.rglob("*"))
    result = invoke(*args)
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output
    assert sorted(folder.rglob("*")) == before
