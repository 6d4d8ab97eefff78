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
    config = rounds_config(tmp_path)
    record = run_rounds(config, reviser_model=reviser)
    first, second = record.rounds
    assert record.stopped == "2 rounds were asked for"
    assert (first.target, second.target) == (str(tmp_path / "tiny"), first.model)
    assert record.current == second.model
    weights = [f"{model}/model.safetensors" for model in (first.target, first.model, second.model)]
    assert len({file_digest(tmp_path / path) for path in weights}) == 3
    responses = [
        [json.loads(line)["model"] for line in lines.read_text().splitlines()]
        for lines in sorted((tmp_path / "rounds").glob("round-*/pairs/responses.jsonl"))
    ]
    assert {*responses[0]} != {*responses[1]}
    assert first.figures["checks"]
    asked = reviser.asked
    again = run_rounds(config, reviser_model=reviser)
    assert (again, reviser.asked) == (record, asked)
    page = write_rounds_page(tmp_path / "rounds").read_text("utf-8")
    for link in ("pairs/report.html", "model/training.html", "evaluation/evaluation.html"):
        assert f'href="round-2/{link}"' in page


def test_the_rounds_end_where_one_shows_no_gain(tmp_path):
    stop = {"figure": "checks.all_passed", "min_gain": 5.0}
    record = run_rounds(
        rounds_config(tmp_path, rounds=3, stop=stop), reviser_model=CountingReviser()
    )
    assert len(record.rounds) == 1
    assert record.rounds[0].gain.gained is False
    assert record.stopped.startswith("round 1 shows no gain in checks.all_passed: ")


def test_more_rounds_may_be_asked_for_later(tmp_path):
    reviser = CountingReviser()
    run_rounds(rounds_config(tmp_path, rounds=1), reviser_model=reviser)
    first = read_record(tmp_path / "rounds").rounds[0]
    record = run_rounds(rounds_config(tmp_path, rounds=2), reviser_model=reviser)
    assert (record.rounds[0], len(record.rounds)) == (first, 2)


def test_a_training_that_an_alarm_stops_ends_in_one_line_and_the_same_command_goes_on(
    tmp_path, capfd
):
    alarm = {"on_alarm": "stop", "alarm_answers": 0.99}
    config = rounds_config(tmp_path, rounds=1, train=alarm)
    reviser = CountingReviser()
    with pytest.raises(TrainingError, match="round 1: the training did not end, as it says above"):
        run_rounds(config, reviser_model=reviser)
    said = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(said) == 1
    assert read_record(tmp_path / "rounds") is None


def test_a_figure_that_there_is_not_keeps_the_round_s_work(tmp_path):
    reviser = CountingReviser()
    with pytest.raises(RunError, match="has no difference of 'nothing'"):
        run_rounds(
            rounds_config(tmp_path, rounds=1, stop={"figure": "checks.nothing"}),
            reviser_model=reviser,
        )
    asked = reviser.asked
    model = tmp_path / "rounds" / "round-1" / "model" / "model.safetensors"
    trained = model.stat().st_mtime_ns
    record = run_rounds(rounds_config(tmp_path, rounds=1), reviser_model=reviser)
    assert (len(record.rounds), reviser.asked) == (1, asked)
    assert model.stat().st_mtime_ns == trained
