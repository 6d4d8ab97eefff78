"""Run folders of version 0.1.0, kept as text in `old_runs`: later versions go on with them.

`judged` is a run in two shards (judge_then_revise, verified), `stronger` a run of
stronger_preferred. Their models were scripted; at the address in their configs nobody listens.
"""

import shutil
import sqlite3
from pathlib import Path

import pytest

from clair_apo.clair import GenerateConfig, generate
from clair_apo.clair.merge import merge
from clair_apo.files import read_jsonl
from clair_apo.records import Dropped, PreferencePair
from clair_apo.report import counts_line, write_report
from clair_apo.run_folder import RunFolder
from tests.helpers.scripted_roles import asked_of, models

OLD_RUNS = Path(__file__).with_name("old_runs")
FOLDERS = ["judged/1-of-2", "judged/2-of-2", "stronger"]


@pytest.fixture(autouse=True)
def old_runs(tmp_path, monkeypatch):
    """The folders as they were, each beside its request store; their paths are relative."""
    shutil.copytree(OLD_RUNS, tmp_path, dirs_exist_ok=True)
    for dump in tmp_path.rglob("*.sql"):
        store = sqlite3.connect(dump.with_suffix(".sqlite"))
        store.executescript(dump.read_text("utf-8"))
        store.close()
        dump.unlink()
    monkeypatch.chdir(tmp_path)


def _rows(folder):
    return {
        name: list(read_jsonl(Path(folder) / name, kind))
        for name, kind in (("pairs.jsonl", PreferencePair), ("dropped.jsonl", Dropped))
    }


def _generate(folder):
    """Run a folder's own config again; no model may be asked."""
    roles = models()
    result = generate(
        GenerateConfig.from_command_line(["--config", f"{folder}/config.yaml"]), **roles
    )
    assert asked_of(roles) == {}
    return result


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_old_run_is_resumed_without_a_request_and_gives_the_same_rows(folder):
    before, rows = RunFolder(folder).manifest(), _rows(folder)
    result = _generate(folder)
    assert result.asked == 0
    assert result.reused == {"judged/1-of-2": 7, "judged/2-of-2": 21, "stronger": 8}[folder]
    assert _rows(folder) == rows
    after = RunFolder(folder).manifest()
    assert after["run_id"] == before["run_id"]
    assert before["counts"].items() <= after["counts"].items()
    assert after["cost"] == pytest.approx(before["cost"])
    assert list(after["stages"]) == list(before["stages"])


def test_an_old_run_whose_later_stages_are_lost_makes_them_again_from_its_store():
    folder = RunFolder("judged/2-of-2")
    manifest, rows = folder.manifest(), _rows(folder.path)
    stages = {name: manifest["stages"][name] for name in ("load", "respond")}
    folder.update_manifest(stages=stages)
    for name in ("judgements", "revisions", "candidates", "pairs", "verifications"):
        folder.file(f"{name}.jsonl").unlink()
    assert _generate(folder.path).asked == 0
    assert _rows(folder.path) == rows


def test_an_old_run_is_reported_as_it_is():
    report = write_report(Path("stronger"))
    assert counts_line(report.summary) == "5 prompts in = 4 pairs + 1 dropped (duplicate 1)"
    card = report.card.read_text("utf-8")
    assert "Recipe stronger\\_preferred. Method:" in card
    assert "| duplicate | Loading prompts | 1 |" in card
    _generate("stronger")  # this version also writes down what the sides are
    card = write_report(Path("stronger")).card.read_text("utf-8")
    assert "rejected is the target model's answer, chosen is a stronger model's own answer" in card


def test_old_shards_are_merged_to_a_run_that_asks_nothing_more():
    merged = merge(Path("whole"), [Path("judged/1-of-2"), Path("judged/2-of-2")])
    assert (merged.prompts, merged.pairs, merged.dropped) == (5, 4, {"duplicate": 1})
    assert (merged.answers, merged.conflicts) == (28, 0)
    again = _generate("whole")
    assert (again.pairs, again.asked, again.reused) == (4, 0, 28)
