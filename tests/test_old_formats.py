"""What earlier versions wrote stays readable: an old example of each format on disk is opened.

    request store      llm/stores/version_*.sql: all versions, and llm/test_store_damage.py
    reference cache    old_formats/reference: format 2, of the tiny model of tests.helpers
    training folder    old_formats/training: with the names of metrics of before chosen and rejected
    run folder         clair/old_runs, in clair/test_old_runs.py

A new format gets a new example here; the old ones stay as they are.
"""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from clair_apo.cli import app
from clair_apo.llm import RequestStore
from clair_apo.llm.store_schema import Spent, StoredBatch
from clair_apo.report import write_training_report
from tests.helpers.llm_requests import ask_for
from tests.helpers.tiny_apo import make_model, make_tokenizer

OLD = Path(__file__).with_name("old_formats")
STORES = sorted(Path(__file__).with_name("llm").glob("stores/version_*.sql"))


def test_there_is_a_store_of_every_version_since_the_second():
    assert [path.name for path in STORES] == ["version_2.sql", "version_3.sql"]


@pytest.fixture(params=STORES, ids=lambda path: path.stem)
def old_store(request, tmp_path):
    path = tmp_path / f"{request.param.stem}.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(request.param.read_text("utf-8"))
    return path


def test_all_that_an_old_store_holds_is_found(old_store):
    with RequestStore(old_store) as store:
        assert store.get("a")["choices"][0]["message"]["content"] == "Grüße, 世界"
        assert store.get("b") == {"n": 1.5, "half": "\ud83d"}
        assert store.spent("r1") == {"m": Spent(1, 5, 7), "n@1": Spent(1, 0, 0)}
        batch = StoredBatch("b1", "sh", "m", "host:1", "r1", "validating", 5.0, ("k1", "k2"))
        assert store.batches() == [batch]
        assert store.failed_answer(ask_for("a")).failure == "no"
        if old_store.stem == "version_3":
            assert store.answer(ask_for("whole")).completion.text == "kept"
            # one that broke off was paid for as well
            assert store.spent("r2") == {"m": Spent(2, 7, 3)}


def test_a_reference_that_was_computed_by_an_earlier_version_is_not_computed_again(
    tmp_path, monkeypatch
):
    shutil.copytree(OLD / "reference", tmp_path / "reference")
    make_model().save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    config = {
        "model_name_or_path": "tiny",
        "dataset_name": str(OLD / "pairs.jsonl"),
        "output_dir": "checkpoint",
        "reference_cache": "reference",
        "held_out": 0.3,
        "per_device_train_batch_size": 4,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    built = CliRunner().invoke(app, ["reference", "build", "--config", "train.yaml"])
    assert "12 pairs: 12 were in the cache, 0 computed now" in built.output
    # what is in the cache is still what the model says
    verified = CliRunner().invoke(app, ["reference", "verify", "--config", "train.yaml"])
    assert "24 answers were asked again" in verified.output


def test_the_training_of_an_earlier_version_is_reported_with_todays_names(tmp_path):
    folder = shutil.copytree(OLD / "training", tmp_path / "training")
    logs = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert "quadrants/winner_up_loser_down" in logs[0]
    files = write_training_report(folder)
    assert [path.name for path in files.plots] == ["rewards.png", "logps.png", "quadrants.png"]
    page = files.page.read_text("utf-8")
    assert "<h3>chosen_collapses at step 5</h3>" in page
    assert "<code>quadrants/chosen_down_rejected_down</code>" in page
