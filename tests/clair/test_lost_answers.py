"""What was lost since a run was last at work is counted and said, once."""

import re
import sqlite3

import pytest

from clair_apo.report import write_report
from tests.helpers.clair_runs import Replying, edit_reply, jsonl_bytes, make_config, run, write_rows

ANSWERS = [(f"Q{n}?", f"Answer {n}, old.") for n in range(3)]
EDITS = [(f"Answer {n}", edit_reply(("old", "new"))) for n in range(3)]


@pytest.fixture
def config(tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"Q{n}?"} for n in range(3)])
    return make_config(tmp_path, prompts)


def forget(tmp_path, count):
    db = sqlite3.connect(tmp_path / "requests.sqlite")
    with db:
        db.execute(
            "DELETE FROM answers WHERE rowid > (SELECT max(rowid) FROM answers) - ?", [count]
        )
    db.close()


def test_answers_that_the_store_lost_are_counted_once_and_asked_again(tmp_path, config, capsys):
    run(config, Replying(ANSWERS), Replying(EDITS))
    before = jsonl_bytes(tmp_path)
    forget(tmp_path, 2)
    capsys.readouterr()
    reviser = Replying(EDITS)
    run(config, Replying([]), reviser)
    said = capsys.readouterr().err
    store = re.escape(str(tmp_path / "requests.sqlite"))
    assert re.search(rf"2 answers that this run had are not in\s+{store}", said)
    assert len(reviser.requests) == 2
    assert jsonl_bytes(tmp_path) == before
    run(config, Replying([]), Replying([]))
    assert "answers that this run had" not in capsys.readouterr().err


def test_what_a_killed_run_was_still_writing_is_counted_too(tmp_path, config, capsys):
    run(config, Replying(ANSWERS), Replying(EDITS))
    folder = tmp_path / "run"
    content = (folder / "responses.jsonl").read_bytes()
    (folder / "responses.jsonl").rename(folder / ".responses.jsonl.0123.part")
    (folder / ".responses.jsonl.0123.part").write_bytes(content[:-20])  # torn in its last line
    for path in folder.iterdir():
        if path.suffix in (".json", ".jsonl"):
            path.unlink()
    forget(tmp_path, 6)  # all of them
    capsys.readouterr()
    run(config, Replying(ANSWERS), Replying(EDITS))
    assert "3 answers that this run had are not in" in capsys.readouterr().err
    assert not list(folder.glob(".*.part"))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_files_that_are_not_as_they_were_written_are_named_and_made_again(
    tmp_path, config, capsys, damage
):
    run(config, Replying(ANSWERS), Replying(EDITS))
    before = jsonl_bytes(tmp_path)
    path = tmp_path / "run" / "revisions.jsonl"
    content = bytearray(path.read_bytes())
    content[content.index(b"new")] ^= 1
    if damage == "flipped":
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-30])
    else:
        path.unlink()
    capsys.readouterr()
    run(config, Replying([]), Replying([]))
    said = " ".join(capsys.readouterr().err.split())
    assert "revisions.jsonl is not as this run wrote them, and made again from the store" in said
    assert jsonl_bytes(tmp_path) == before


def test_a_run_that_lost_nothing_says_nothing(config, capsys):
    for _ in range(2):
        run(config, Replying(ANSWERS), Replying(EDITS))
        said = capsys.readouterr().err
        assert "not as" not in said
        assert "had are not" not in said


def test_a_report_warns_of_pairs_that_are_not_as_they_were_written(tmp_path, config, capsys):
    run(config, Replying(ANSWERS), Replying(EDITS))
    write_report(tmp_path / "run")
    assert "warning" not in capsys.readouterr().err
    path = tmp_path / "run" / "pairs.jsonl"
    path.write_text(path.read_text().replace("Answer 1, new", "Answer 1, oew"))
    write_report(tmp_path / "run")
    assert "pairs.jsonl is not as the run wrote it" in " ".join(capsys.readouterr().err.split())
