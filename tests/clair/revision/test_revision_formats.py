"""The benchmark that compares the formats, on runs small enough to count by hand."""

import importlib.util
from pathlib import Path

import pytest

from clair_apo.records import DropReason
from tests.helpers.clair_runs import (
    Replying,
    edit_reply,
    full_reply,
    make_config,
    run,
    segment_reply,
    write_rows,
)

FILE = Path(__file__).parents[3] / "benchmarks" / "revision_formats.py"


@pytest.fixture(scope="module")
def formats():
    spec = importlib.util.spec_from_file_location("revision_formats", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(folder, format, replies):
    folder.mkdir()
    prompts = write_rows(folder / "prompts.jsonl", [{"prompt": f"{n}?"} for n in "abc"])
    answers = [(f"{n}?", f"answer {n} is old") for n in "abc"]
    config = make_config(folder, prompts, revision={"format": format, "ask_again": False})
    run(config, Replying(answers), Replying(replies))
    return config.run_dir


def test_two_runs_are_compared_over_the_prompts_that_both_could_read(tmp_path, formats):
    full = [(f"answer {n}", full_reply(f"{n} new")) for n in "abc"]
    edits = [(f"answer {n}", edit_reply(("old", "new"))) for n in "ab"]
    edits += [("answer c", "Looks good.")]
    sides = [
        formats.of_run(_run(tmp_path / format, format, replies))
        for format, replies in (("full", full), ("edits", edits))
    ]
    assert [len(side.measured) for side in sides] == [3, 2]
    assert [side.unread for side in sides] == [{}, {DropReason.UNPARSED.value: 1}]
    table = formats.table(*sides)
    assert table.startswith("| n = 2 prompts | run (full) | run (edits) | difference |")
    # {answer, a, is, old} with {a, new} share 1 of 5; with {answer, a, is, new} they share 3 of 5
    assert "| Jaccard similarity | 0.200 [0.200, 0.200] | 0.600 [0.600, 0.600] | +0.400" in table
    assert "| Levenshtein distance, characters |" in table


def test_what_three_runs_kept_and_paid_stands_side_by_side(tmp_path, formats, monkeypatch, capsys):
    replies = {
        "full": [(f"answer {n}", full_reply(f"answer {n} is new")) for n in "abc"],
        "edits": [(f"answer {n}", edit_reply(("old", "new"))) for n in "ab"]
        + [("answer c", "Looks good.")],
        "segments": [("answer a", segment_reply((1, "answer a is new")))]
        + [(f"answer {n}", segment_reply((9, "no such segment"))) for n in "bc"],
    }
    runs = [str(_run(tmp_path / format, format, replies[format])) for format in replies]
    paid = [formats.outcome_of(Path(run)) for run in runs]
    tokens = [row.completion_tokens for row in paid]
    monkeypatch.setattr("sys.argv", ["revision_formats.py", "--runs", *runs])
    formats.main()
    said = capsys.readouterr().out
    assert "| outcome | full | edits | segments |" in said
    assert "| **kept as pairs** | 3 | 2 | 1 |" in said
    assert f"| {DropReason.UNPARSED.value} | 0 | 1 | 0 |" in said
    assert f"| {DropReason.EDIT_NOT_FOUND.value} | 0 | 0 | 2 |" in said
    assert "| requests to the reviser | 3 | 3 | 3 |" in said
    each = " | ".join(f"{n / kept:,.0f}" for n, kept in zip(tokens, (3, 2, 1), strict=True))
    assert all(tokens) and f"| tokens out for each pair | {each} |" in said
    # each two of the three, over the prompts that both could read
    assert [said.count(f"| n = {n} prompts |") for n in (2, 1)] == [1, 2]


def test_the_recordings_revisions_are_measured_in_both_formats(formats):
    full, edits = formats.recorded("full"), formats.recorded("edits")
    assert set(full.measured) >= set(edits.measured) != set()
    for prompt, measured in edits.measured.items():
        assert measured.contrast == full.measured[prompt].contrast  # the same text in two forms
