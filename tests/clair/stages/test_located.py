"""How edits were found in the answer is counted; they are folded only where that is set."""

from clair_apo.records import DropReason
from clair_apo.run_folder import RunFolder
from tests.helpers.clair_runs import Replying, edit_reply, make_config, rows_of, run, write_rows

ANSWERS = [("exact?", "It's old and long."), ("folded?", "It\u2019s old and long.")]
REPLY = edit_reply(("It's old", "It's new"), ("long", "short"))


def _run(folder, **revision):
    prompts = write_rows(folder / "prompts.jsonl", [{"prompt": prompt} for prompt, _ in ANSWERS])
    config = make_config(folder, prompts, revision={"ask_again": False} | revision)
    result = run(config, Replying(ANSWERS), Replying([("", REPLY)]))
    return result, RunFolder(config.run_dir).manifest()


def test_the_manifest_counts_edits_that_were_found_exactly_and_folded(tmp_path):
    result, manifest = _run(tmp_path)
    assert result.pairs == 2
    assert manifest["stages"]["revise"]["located"] == {"exact": 3, "folded": 1}
    rows = rows_of(tmp_path, "revisions.jsonl")
    assert [row["located"] for row in rows] == [
        {"exact": 2, "folded": 0},
        {"exact": 1, "folded": 1},
    ]
    assert rows[1]["text"] == "It\u2019s new and short."


def test_without_revision_fold_only_exact_passages_are_taken(tmp_path):
    _run(tmp_path)
    result, manifest = _run(tmp_path, fold=False)  # in the same folder: rows are made again
    assert result.asked == 0
    assert result.dropped == {DropReason.EDIT_NOT_FOUND: 1}
    assert manifest["stages"]["revise"]["located"] == {"exact": 2, "folded": 0}


def test_other_formats_count_no_edits(tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Q?"}])
    config = make_config(tmp_path, prompts, revision={"format": "full"})
    run(config, Replying([("", "old")]), Replying([("", "<revision>new</revision>")]))
    assert "located" not in RunFolder(config.run_dir).manifest()["stages"]["revise"]
