"""What an experiment may be, and what is said of one that cannot be."""

import pytest
import yaml

from clair_apo.errors import ConfigError
from clair_apo.experiment import ExperimentConfig
from clair_apo.experiment.cells import candidates, chosen_cells, names, tuned_groups
from clair_apo.experiment.plan import ExperimentPlan
from tests.helpers.experiment_run import experiment_config, experiment_files


@pytest.fixture
def files(tmp_path):
    return experiment_files(tmp_path)


GRID = {
    "sft": {"loss_type": "sft"},
    "dpo": {"loss_type": "sigmoid", "beta": [0.1, 0.5], "learning_rate": [1e-5, 2e-5]},
}
RULE = {"figure": "checks.all"}


def test_a_grid_has_a_cell_for_each_value_and_after_the_choice_one_for_each_seed(tmp_path, files):
    config = experiment_config(
        tmp_path,
        files,
        objectives=GRID,
        seeds=(3, 4),
        choose=RULE | {"data": "clair"},
        development=files["development"],
    )
    assert tuned_groups(config) == [("clair", "dpo")]
    tried = candidates(config, "clair", "dpo")
    assert names(tried) == [
        f"clair.dpo.beta{beta}.lr{rate}.seed3"
        for beta in ("0.1", "0.5")
        for rate in ("1e-05", "2e-05")
    ]
    without_choice = chosen_cells(config, {})
    assert {cell.group for cell in without_choice} == {("clair", "sft"), ("two_samples", "sft")}
    chosen = chosen_cells(config, {("clair", "dpo"): {"beta": 0.5, "learning_rate": 1e-5}})
    assert "two_samples.dpo.beta0.5.lr1e-05.seed4" in names(chosen)
    assert len(chosen) == 8
    assert len(set(chosen) & set(tried)) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": "clair"}, "expected <data>/<objective>, such as clair/dpo, got 'clair'"),
        ({"objectives": GRID, "baseline": "clair/dpo"}, "'dpo' has several values to choose from"),
        ({"choose": RULE}, "choose: no objective has several values"),
        ({"seeds": (1, 1)}, "each seed once"),
        ({"figures": ("checks",)}, "expected <suite>.<figure>, got 'checks'"),
        ({"figures": ("checks.all", "-checks.all")}, "checks.all stands there twice"),
        ({"objectives": {"dpo": {"seed": 1}}}, "dpo: seed is the cell's own"),
        ({"data": {"clair": {}}}, "set one of generate"),
        ({"data": {"a b": {"pairs": "x"}}}, "String should match pattern"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(tmp_path, files, changes, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        experiment_config(tmp_path, files, **changes)


def _changed(path, **changes):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("train", {"datasets": [{"path": "x"}]}, "datasets: a cell has one data set"),
        ("train", {"model_name_or_path": None}, "model_name_or_path: name the model"),
        ("clair", {"shard": "1/2"}, "shard: leave it out"),
        ("test", {"models": {"a": {"recorded": ["x.jsonl"]}}}, "the first of models says how"),
        ("development", {"models": {"each": "x/checkpoint-*"}}, "by the trained model alone"),
    ],
)
def test_a_file_that_does_not_fit_is_named_before_anything_is_asked(
    tmp_path, files, file, change, words
):
    _changed(files[file], **change)
    tuned = {"objectives": GRID, "choose": RULE, "development": files["development"]}
    with pytest.raises(ConfigError, match=words) as caught:
        ExperimentPlan(experiment_config(tmp_path, files, **tuned))
    assert str(files[file]) in str(caught.value)


def test_a_figure_is_of_one_of_the_evaluations(tmp_path, files):
    with pytest.raises(ConfigError, match=r"win\.share: there is no suite 'win' in .*test.yaml"):
        ExperimentPlan(experiment_config(tmp_path, files, figures=("win.share",)))
    twice = {"evaluate": (files["test"], files["development"])}
    with pytest.raises(ConfigError, match=r"has a suite 'checks', as .*test\.yaml has"):
        ExperimentPlan(experiment_config(tmp_path, files, **twice))


def test_one_evaluation_may_be_written_without_a_list(tmp_path, files):
    config = experiment_config(tmp_path, files, evaluate=str(files["test"]))
    assert config.evaluate == (files["test"],)
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    assert ExperimentConfig.from_command_line(["--config", str(path)]) == config


def test_a_cell_is_trained_as_the_common_file_says_with_what_is_its_own(tmp_path, files):
    objectives = {"dpo": {"loss_type": "sigmoid", "beta": 0.3, "label_smoothing": 0.1}}
    plan = ExperimentPlan(experiment_config(tmp_path, files, objectives=objectives, seeds=(7,)))
    (cell,) = candidates(plan.config, "clair", "dpo")[:1]
    training = plan.training(cell)
    assert training["learning_rate"] == 0.01, "from the common file"
    own = {"loss_type": "sigmoid", "beta": 0.3, "label_smoothing": 0.1, "seed": 7}
    assert own.items() <= training.items()
    assert training["dataset_name"] == str(tmp_path / "experiment/data/clair/pairs.jsonl")
    (testing,) = plan.testing(cell)
    assert list(testing.models) == ["clair.dpo.beta0.3.seed7", "base"]
