"""Training in a process of its own: what it is told, and what is said of one that fails."""

import json

import pytest
import yaml
from filelock import FileLock

from clair_apo import training_process
from clair_apo.errors import TrainingError
from clair_apo.run_folder import LOCK, RunFolder
from clair_apo.training_process import Launch, is_trained, run_command, train_apart


@pytest.fixture
def ran(monkeypatch):
    commands = []
    monkeypatch.setattr(
        training_process, "run_command", lambda name, words, log=None: commands.append(words)
    )
    return commands


def test_a_training_is_given_its_settings_in_a_file_and_goes_on_from_a_checkpoint(tmp_path, ran):
    model, config = tmp_path / "model", tmp_path / "cell" / "train.yaml"
    settings = {"output_dir": str(model), "beta": 0.1}
    launch = Launch(num_processes=2, accelerate_config=tmp_path / "a.yaml")
    train_apart("cell", settings, config, launch)
    options = ["--num_processes", "2", "--accelerate_config", str(tmp_path / "a.yaml")]
    assert ran == [["train", *options, "--config", str(config)]]
    assert yaml.safe_load(config.read_text()) == settings
    (model / "checkpoint-2").mkdir(parents=True)
    (model / "checkpoint-2" / "trainer_state.json").write_text("{}")
    train_apart("cell", settings, config, Launch())
    assert yaml.safe_load(config.read_text()) == settings | {"resume_from_checkpoint": "true"}
    assert ran[1] == ["train", "--config", str(config)]


def test_a_finished_training_is_not_run_again(tmp_path, ran):
    assert not is_trained(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"stages": {"train": {"steps": 3}}}))
    train_apart("cell", {"output_dir": str(tmp_path)}, tmp_path / "train.yaml", Launch())
    assert ran == []


def test_a_training_that_is_under_way_is_waited_for(tmp_path, ran, monkeypatch, capsys):
    model = tmp_path / "model"
    model.mkdir()
    lock = FileLock(model / LOCK)
    lock.acquire()

    def ends(_):
        (model / "manifest.json").write_text(json.dumps({"stages": {"train": {"steps": 3}}}))
        lock.release()

    monkeypatch.setattr(training_process.time, "sleep", ends)
    train_apart("cell", {"output_dir": str(model)}, tmp_path / "train.yaml", Launch())
    assert ran == [], "the other one has trained it"
    assert "cell: waiting for a training that is under way in " in capsys.readouterr().err


def test_a_training_that_began_while_this_one_was_loading_is_waited_for(tmp_path, monkeypatch):
    model = RunFolder(tmp_path / "model")

    def refused(name, arguments, log=None):
        # what a killed process had begun has come to its end since
        model.record_stage("train", {"steps": 1})
        raise TrainingError("another process is at work in this run folder")

    monkeypatch.setattr(training_process, "run_command", refused)
    settings = {"output_dir": str(model.path)}
    train_apart("a cell", settings, tmp_path / "train.yaml", Launch())
    assert is_trained(model.path), "by the other one, so its error is none here"


def test_the_error_of_a_process_is_taken_from_its_log(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("what an earlier one said\n")
    with pytest.raises(TrainingError) as caught:
        run_command("cell 1", ["train", "--config", str(tmp_path / "none.yaml")], log)
    assert "cell 1: the training did not end, 'clair-apo: error: " in str(caught.value)
    assert "none.yaml" in str(caught.value)
    assert f"in {log}" in str(caught.value)
    assert log.read_text().startswith("what an earlier one said\n")


def test_without_a_log_it_says_so_itself(tmp_path, capfd):
    with pytest.raises(TrainingError, match="cell 1: the training did not end, as it says above"):
        run_command("cell 1", ["train", "--config", str(tmp_path / "none.yaml")])
    assert "none.yaml" in capfd.readouterr().err
