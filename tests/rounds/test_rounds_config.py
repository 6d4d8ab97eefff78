"""What a run of rounds refuses before anything is asked."""

import pytest
import yaml

from clair_apo.errors import ConfigError, RunError
from clair_apo.rounds import RoundsConfig, run_rounds
from clair_apo.rounds.plan import RoundModels, RoundsPlan
from clair_apo.rounds.record import RoundsRecord, read_record, write_record
from tests.helpers.rounds_run import rounds_config


def change(path, **values):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def test_a_round_replaces_models_and_folders_and_nothing_else(tmp_path):
    plan = RoundsPlan(rounds_config(tmp_path))
    models = RoundModels(initial="first", target=str(tmp_path / "tiny"))
    made = plan.generating(2, models)
    assert (made.run_dir, made.target.model) == (
        tmp_path / "rounds" / "round-2" / "pairs",
        str(tmp_path / "tiny"),
    )
    assert made.target.max_tokens == 40
    assert made.store_path == tmp_path / "rounds" / "requests.sqlite"
    training = plan.training(2, models)
    assert training["dataset_name"].endswith("round-2/pairs/dataset")
    assert training["max_steps"] == 4
    assert "resume_from_checkpoint" not in training
    asked = plan.evaluating(2, models)
    assert list(asked.models) == ["round_2", "round_1", "initial"]
    assert {spec.max_tokens for spec in asked.models.values()} == {40}


@pytest.mark.parametrize(("reference", "expected"), [("previous", "initial"), ("initial", "first")])
def test_the_reference_is_the_model_before_the_round_or_the_first_one(
    tmp_path, reference, expected
):
    plan = RoundsPlan(rounds_config(tmp_path, reference=reference))
    assert plan.training(2, RoundModels("first", "second"))["reference"] == expected


def test_the_first_round_is_compared_with_the_initial_model(tmp_path):
    plan = RoundsPlan(rounds_config(tmp_path))
    assert list(plan.evaluating(1, RoundModels("first", "first")).models) == ["round_1", "initial"]


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("generate", {"target": {"model": "m", "base_url": "http://127.0.0.1:1/v1"}}, "is trained"),
        ("generate", {"shard": "1/2"}, "shard"),
        ("generate", {"recipie": "clair"}, "did you mean 'recipe'"),
        ("train", {"datasets": ["a"]}, "a round trains on its own pairs"),
        ("train", {"loss_type": "auto"}, "loss_type auto and advise belong together"),
        ("evaluate", {"models": {"x": {"recorded": ["a.jsonl"]}}}, "the first of models says how"),
    ],
)
def test_a_command_that_rounds_cannot_use_is_refused_with_its_file(tmp_path, file, values, words):
    config = rounds_config(tmp_path)
    change(tmp_path / f"{file}.yaml", **values)
    with pytest.raises(ConfigError, match=words):
        run_rounds(config)
    assert not (tmp_path / "rounds").exists()


def test_a_rule_about_a_suite_that_there_is_not_is_refused(tmp_path):
    config = rounds_config(tmp_path, stop={"figure": "health.ended"})
    with pytest.raises(ConfigError, match="has no suite 'health'; it has checks"):
        run_rounds(config)


def test_a_rule_without_a_figure_is_refused():
    with pytest.raises(ValueError, match=r"expected <suite>\.<figure>"):
        RoundsConfig(run_dir="r", generate="g", train="t", evaluate="e", stop={"figure": "health"})


def test_a_folder_of_rounds_with_other_settings_is_refused(tmp_path):
    config = rounds_config(tmp_path)
    (tmp_path / "rounds").mkdir()
    begun = RoundsRecord(initial="x", settings={"reference": "previous"})
    write_record(tmp_path / "rounds", begun)
    with pytest.raises(RunError, match="was begun with other settings"):
        run_rounds(config)


def test_a_record_of_another_version_is_refused_in_one_line(tmp_path):
    (tmp_path / "rounds.json").write_text('{"initial": "x"}')
    with pytest.raises(RunError, match="another version of this program"):
        read_record(tmp_path)
