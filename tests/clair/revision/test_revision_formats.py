"""The benchmark that compares the two formats, on runs small enough to count by hand."""

import importlib.util
from pathlib import Path

import pytest

from clair_apo.records import DropReason
from tests.helpers.clair_runs import Replying, edit_reply, full_reply, make_config, run, write_rows

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


def test_the_recordings_revisions_are_measured_in_both_formats(formats):
    full, edits = formats.recorded("full"), formats.recorded("edits")
    assert set(full.measured) >= set(edits.measured) != set()
    for prompt, measured in edits.measured.items():
        assert measured.contrast == full.measured[prompt].contrast  # the same text in two forms
