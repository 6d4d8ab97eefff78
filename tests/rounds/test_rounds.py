"""Rounds over a tiny model: generate, train, evaluate, and again."""

import json

import pytest

from clair_apo.errors import RunError, TrainingError
from clair_apo.report import write_rounds_page
from clair_apo.rounds import run_rounds
from clair_apo.rounds.record import read_record
from clair_apo.run_folder import file_digest
from tests.helpers.rounds_run import CountingReviser, rounds_config

pytestmark = pytest.mark.real


def test_two_rounds_train_the_model_of_the_first_on_pairs_of_its_own_answers(tmp_path):
    reviser = CountingReviser()
    (first,) = run_rounds(rounds_config(tmp_path, rounds=1), reviser_model=reviser).rounds
    record = run_rounds(rounds_config(tmp_path, rounds=2), reviser_model=reviser)
    kept, second = record.rounds
    assert kept == first
    assert record.stopped == "2 rounds were asked for"
    assert (first.target, second.target) == (str(tmp_path / "tiny"), first.model)
    assert record.current == second.model
    weights = [f"{model}/model.safetensors" for model in (first.target, first.model, second.model)]
    assert len({file_digest(tmp_path / path) for path in weights}) == 3
    answered_by = [
        {json.loads(line)["model"] for line in lines.read_text().splitlines()}
        for lines in sorted((tmp_path / "rounds").glob("round-*/pairs/responses.jsonl"))
    ]
    assert answered_by[0].isdisjoint(answered_by[1])
    assert first.figures["checks"]["all"]["n"] == 12
    asked = reviser.asked
    again = run_rounds(rounds_config(tmp_path, rounds=2), reviser_model=reviser)
    assert (again, reviser.asked) == (record, asked)
    page = write_rounds_page(tmp_path / "rounds").read_text("utf-8")
    for link in ("pairs/report.html", "model/training.html", "evaluation/evaluation.html"):
        assert f'href="round-2/{link}"' in page


def test_a_round_without_gain_ends_the_rounds_and_a_wrong_figure_loses_no_work(tmp_path):
    reviser = CountingReviser()
    config = rounds_config(tmp_path, rounds=3, stop={"figure": "checks.nothing"})
    with pytest.raises(
        RunError, match=r"has no difference of 'nothing' \(it has begins, all, share\)"
    ):
        run_rounds(config, reviser_model=reviser)
    model = tmp_path / "rounds" / "round-1" / "model" / "model.safetensors"
    trained, asked = model.stat().st_mtime_ns, reviser.asked
    stop = {"figure": "checks.all", "min_gain": 5.0}
    record = run_rounds(rounds_config(tmp_path, rounds=3, stop=stop), reviser_model=reviser)
    assert (model.stat().st_mtime_ns, reviser.asked) == (trained, asked)
    assert len(record.rounds) == 1
    assert record.rounds[0].gain.gained is False
    assert record.stopped.startswith("round 1 shows no gain in checks.all: ")


def test_a_training_that_an_alarm_stops_ends_in_one_line_and_the_same_command_goes_on(
    tmp_path, capfd
):
    harsh = {"on_alarm": "stop", "learning_rate": 1.0, "logging_steps": 1, "max_steps": 14}
    config = rounds_config(tmp_path, rounds=1, train=harsh)
    reviser = CountingReviser()
    with pytest.raises(TrainingError, match="round 1: the training did not end, as it says above"):
        run_rounds(config, reviser_model=reviser)
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert "stopped by on_alarm" in said
    assert read_record(tmp_path / "rounds") is None
    asked, others = reviser.asked, []
    while read_record(tmp_path / "rounds") is None:  # each alarm stops it once
        try:
            run_rounds(config, reviser_model=reviser)
        except TrainingError:
            others += [x for x in capfd.readouterr().err.splitlines() if "stopped by on_alarm" in x]
            assert len({said, *others}) == 1 + len(others) < 6
    (only,) = read_record(tmp_path / "rounds").rounds
    assert (only.steps, reviser.asked) == (14, asked)
