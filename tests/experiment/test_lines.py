"""What other machines run of an experiment, and what it takes."""

import re
import shlex
import subprocess

import pytest
import yaml

from clair_apo.experiment.cells import candidates
from clair_apo.experiment.config import RatesConfig
from clair_apo.experiment.data import FILE
from clair_apo.experiment.estimate import estimate
from clair_apo.experiment.lines import launch_lines, slurm_script, without_launch
from clair_apo.experiment.plan import ExperimentPlan
from clair_apo.run_folder import write_json
from tests.helpers.experiment_run import experiment_config, experiment_files

OPTIONS = ["--config", "my experiment.yaml"]
HALF = {"mean": 0.5, "n": 5, "low": 0.4, "high": 0.6}
MADE = {"pairs": 5, "prompts": 5, "made": 5, "digest": "d"}
DATA = {"clair": MADE | {"jaccard": HALF, "levenshtein_share": HALF}}
BETAS = {"zero": {"loss_type": "apo_zero", "beta": [0.1, 0.5]}}


@pytest.fixture
def files(tmp_path):
    return experiment_files(tmp_path)


def _made(plan):
    folder = plan.folder / "data"
    folder.mkdir(parents=True)
    write_json(folder / FILE, DATA)
    return plan


def _done(plan, cell, step):
    file = plan.outcome_file(cell, step)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"state": "done", "ended": 1.0})


def test_the_data_come_first(tmp_path, files):
    plan = ExperimentPlan(experiment_config(tmp_path, files))
    assert launch_lines(plan, OPTIONS).startswith(
        "clair-apo experiment --config 'my experiment.yaml' --only data\n"
    )
    assert "# before this job, on one machine: clair-apo" in slurm_script(plan, OPTIONS)


def test_a_line_trains_a_cell_by_the_config_that_it_names(tmp_path, files):
    accelerate = tmp_path / "accelerate.yaml"
    config = experiment_config(tmp_path, files, accelerate_config=accelerate, num_processes=8)
    plan = _made(ExperimentPlan(config))
    *lines, last = launch_lines(plan, OPTIONS).splitlines()
    assert len(lines) == 4
    words = shlex.split(lines[0])
    launched = ["accelerate", "launch", "--config_file", str(accelerate), "--num_processes", "8"]
    assert words[:-1] == [*launched, "-m", "clair_apo", "train", "--config"]
    (cell,) = candidates(config, "clair", "dpo")
    with open(words[-1], encoding="utf-8") as file:
        assert yaml.safe_load(file) == plan.training(cell)
    assert last.startswith("clair-apo experiment --config 'my experiment.yaml'  # evaluates")
    checkpoint = plan.cell_folder(cell).model / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    assert launch_lines(plan, OPTIONS).splitlines()[0] == lines[0]
    with open(words[-1], encoding="utf-8") as file:
        assert yaml.safe_load(file)["resume_from_checkpoint"] == "true", "else train refuses"


def test_only_what_is_open_is_printed_and_chosen_cells_follow_the_choice(tmp_path, files):
    config = experiment_config(
        tmp_path,
        files,
        objectives=BETAS,
        baseline="clair/zero",
        choose={"figure": "checks.all", "data": "clair"},
        development=files["development"],
    )
    plan = _made(ExperimentPlan(config))
    first, second = candidates(config, "clair", "zero")
    script = slurm_script(plan, OPTIONS)
    assert (first.name in script, second.name in script) == (True, True)
    assert "--array=0-1" in script
    assert "two_samples" not in script
    assert "the cells with the chosen values follow" in script
    _done(plan, first, "development")
    assert "--array=0-0" in slurm_script(plan, OPTIONS)
    _done(plan, second, "development")
    choice = {
        "data": "clair",
        "objective": "zero",
        "rule": "r",
        "candidates": [],
        "chosen": dict(second.values),
    }
    write_json(plan.folder / "choices.json", [choice])
    names = re.findall(r"^  (\S+)$", slurm_script(plan, OPTIONS), re.MULTILINE)
    assert names == ["clair.zero.beta0.5.seed0", "two_samples.zero.beta0.5.seed0"]


def test_the_script_is_one_that_bash_takes(tmp_path, files):
    plan = _made(ExperimentPlan(experiment_config(tmp_path, files)))
    script = tmp_path / "job.sh"
    script.write_text(slurm_script(plan, ["--config", "x.yaml"]).replace("clair-apo", "echo"))
    done = subprocess.run(
        ["bash", str(script)],
        env={"SLURM_ARRAY_TASK_ID": "3", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "experiment --config x.yaml --only two_samples.zero.seed0\n"


def test_the_printed_command_does_the_work():
    assert without_launch(["--config", "a", "--launch", "lines", "--seeds", "[0]"]) == [
        *("--config", "a", "--seeds", "[0]")
    ]
    assert without_launch(["--launch=slurm", "--config", "a"]) == ["--config", "a"]


RATES = RatesConfig(
    source="a guess",
    prompts=1000,
    usd_per_prompt=0.01,
    pairs=900,
    tokens_per_pair=500,
    training_tokens_per_second=1000,
    answers=200,
    development_answers=50,
    tokens_per_answer=100,
    tokens_per_prompt=100,
    generated_tokens_per_second=2000,
    usd_per_answer=0.002,
    model_gigabytes=1.0,
    optimizer_gigabytes=2.0,
    usd_per_hour=3.6,
)


def test_an_estimate_is_the_product_of_what_there_is_and_the_stated_rates(tmp_path, files):
    config = experiment_config(
        tmp_path,
        files,
        objectives=BETAS,
        baseline="clair/zero",
        choose={"figure": "checks.all"},
        development=files["development"],
        seeds=(0, 1, 2),
        rates=RATES,
    )
    found = estimate(ExperimentPlan(config))
    # two groups of three seeds, and the candidate of each group that is not chosen
    assert (found.cells, found.evaluated) == (8, 6)
    data, training, evaluation = found.parts
    assert data.hours == pytest.approx(2 * 1000 * 100 / 2000 / 3600)
    assert data.usd == pytest.approx(2 * 1000 * 0.01 + data.hours * 3.6)
    # the file says four steps of four pairs
    assert training.hours == pytest.approx(8 * 16 * 500 / 1000 / 3600)
    answers = 7 * 200 + 4 * 50
    assert evaluation.hours == pytest.approx(answers * 100 / 2000 / 3600)
    assert evaluation.usd == pytest.approx(answers * 0.002 + evaluation.hours * 3.6)
    # eight models, and of one cell the two checkpoints of steps 2 and 4
    assert found.peak_gigabytes == 8 * 1.0 + 2 * 3.0
    assert (found.cell.gigabytes, found.cell.kept_gigabytes) == (1.0 + 2 * 3.0, 1.0)
    assert found.cell.training_hours == pytest.approx(training.hours / 8)
    assert found.cell.evaluation_hours == pytest.approx(200 * 100 / 2000 / 3600)


def test_each_model_that_answers_is_started_once(tmp_path, files):
    def evaluation(seconds):
        rates = RATES.model_copy(update={"start_seconds": seconds})
        config = experiment_config(
            tmp_path,
            files,
            objectives=BETAS,
            baseline="clair/zero",
            choose={"figure": "checks.all"},
            development=files["development"],
            rates=rates,
        )
        found = estimate(ExperimentPlan(config))
        return found.parts[2].hours, found.cell.evaluation_hours

    (all_now, cell_now), (all_later, cell_later) = evaluation(0), evaluation(360)
    # two chosen cells and the model before, and four candidates on the development prompts
    assert all_later - all_now == pytest.approx((2 + 1 + 4) * 0.1)
    assert cell_later - cell_now == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("settings", "keep_weights", "stays"),
    [
        ({}, True, 1.0 + 2 * 3.0),
        ({"drop_checkpoints": True}, True, 1.0 + 3.0),
        ({}, False, 0.0),
        ({"drop_checkpoints": True}, False, 0.0),
    ],
)
def test_the_disk_holds_what_evaluated_checkpoints_leave(
    tmp_path, files, settings, keep_weights, stays
):
    values = yaml.safe_load(files["test"].read_text())
    asked = values["models"].pop("cell")
    values["models"] = {"each": asked | {"model": str(tmp_path / "tiny" / "checkpoint-*")}}
    files["test"].write_text(yaml.safe_dump(values | settings | {"best_by": "checks.begins"}))
    config = experiment_config(tmp_path, files, rates=RATES, keep_weights=keep_weights)
    found = estimate(ExperimentPlan(config))
    assert (found.cells, found.evaluated) == (4, 4 * 2)
    assert found.cell.kept_gigabytes == stays
    assert found.peak_gigabytes == 3 * stays + 1.0 + 2 * 3.0


def test_without_rates_the_cells_are_counted(tmp_path, files):
    found = estimate(ExperimentPlan(experiment_config(tmp_path, files)))
    assert (found.cells, found.parts) == (4, ())
