"""A whole experiment with a tiny model: data, choice, cells, table; and again after a kill."""

import multiprocessing
import signal
import time

import pytest
import yaml

from clair_apo.errors import RunError
from clair_apo.experiment import read_measured, read_record, run_experiment
from clair_apo.experiment.cells import Cell
from clair_apo.experiment.plan import ExperimentPlan
from clair_apo.ingest.pairs import load_pairs
from clair_apo.llm import FunctionChat
from clair_apo.report import write_experiment_page
from tests.helpers.experiment_run import FUNCTIONS, experiment_config, experiment_files

pytestmark = pytest.mark.real

GRID = {
    "dpo": {"loss_type": "sigmoid", "beta": [0.1, 1.0]},
    "sft": {"loss_type": "sft"},
    "broken": {"loss_type": "apo_zero", "learning_rate": -1.0},
}


def _config(folder, files, **changes):
    values = {
        "objectives": GRID,
        "choose": {"figure": "checks.begins", "data": "clair"},
        "development": files["development"],
        "keep_weights": False,
    }
    return experiment_config(folder, files, **(values | changes))


def _states(record):
    return {cell.name: cell.state for cell in record.cells}


def test_an_experiment_chooses_trains_and_compares_and_does_nothing_twice(tmp_path):
    files = experiment_files(tmp_path)
    config = _config(tmp_path, files)
    record = run_experiment(config, functions=FUNCTIONS)
    (choice,) = record.choices
    assert [one.values for one in choice.candidates] == [{"beta": 0.1}, {"beta": 1.0}]
    best = max(choice.candidates, key=lambda one: one.figure.mean)
    assert choice.chosen == best.values
    states = _states(record)
    assert [name for name, state in states.items() if state == "failed"] == [
        "clair.broken.lr-1.seed0",
        "two_samples.broken.lr-1.seed0",
    ]
    failed = next(cell for cell in record.cells if cell.state == "failed")
    assert "ValueError: Invalid learning rate: -1.0" in failed.why
    done = [cell for cell in record.cells if cell.state == "done"]
    assert {cell.steps for cell in done} == {4}
    assert {cell.reference_computed for cell in done} == {0}, "built once for a data set"
    prompts = [
        {pair.id for pair in load_pairs(str(config.run_dir / "data" / name / "pairs.jsonl"))}
        for name in config.data
    ]
    assert prompts[0] == prompts[1]
    assert {one.pairs for one in record.data.values()} == {len(prompts[0])}
    compared = {(one.data, one.objective) for one in record.comparisons}
    assert compared == {(d, o) for d in ("clair", "two_samples") for o in ("dpo", "sft")}
    assert not list(config.run_dir.glob("cells/*/model/*.safetensors"))
    assert not list(config.run_dir.glob("cells/*/model/checkpoint-*"))
    assert "| clair / dpo |" in (config.run_dir / "experiment.md").read_text("utf-8")

    written = {path: path.stat().st_mtime_ns for path in config.run_dir.glob("cells/*/test.json")}
    again = run_experiment(config, functions=FUNCTIONS)
    assert again.comparisons == record.comparisons
    unchanged = [p for p, at in written.items() if p.stat().st_mtime_ns == at]
    assert len(unchanged) == 4, "the two that failed were tried again"


def test_other_seeds_may_follow_and_another_training_may_not(tmp_path):
    files = experiment_files(tmp_path)
    few = {"objectives": {"dpo": {"loss_type": "sigmoid"}}, "choose": None, "development": None}
    data = {"data": {"clair": {"generate": files["clair"]}}}
    run_experiment(_config(tmp_path, files, **few, **data), functions=FUNCTIONS)
    only = {"only": ("clair.dpo.seed5",), "seeds": (0, 5)}
    record = run_experiment(_config(tmp_path, files, **few, **data, **only), functions=FUNCTIONS)
    assert _states(record) == {"clair.dpo.seed0": "done", "clair.dpo.seed5": "done"}
    (share,) = [one for one in record.comparisons if one.figure == "checks.begins"]
    assert share.estimate.over_seeds.n == 2
    plan = ExperimentPlan(_config(tmp_path, files, **few, **data))
    values = read_measured(plan, Cell("clair", "dpo", (), 5)).views["last"]["checks.begins"].values
    assert len(values) == 12
    few["objectives"] = {"dpo": {"loss_type": "sigmoid", "label_smoothing": 0.1}}
    with pytest.raises(
        RunError, match=r"seed0 was trained with other settings \(label_smoothing\)"
    ):
        run_experiment(_config(tmp_path, files, **few, **data), functions=FUNCTIONS)
    other = experiment_files(tmp_path, train={"max_steps": 5})
    with pytest.raises(RunError, match=r"was begun with other settings \(train\)"):
        run_experiment(_config(tmp_path, other, **few, **data), functions=FUNCTIONS)


def test_the_checkpoints_of_the_chosen_cell_are_there_to_be_evaluated(tmp_path):
    files = experiment_files(tmp_path)
    test = yaml.safe_load(files["test"].read_text("utf-8"))
    test["models"] = {"each": test["models"]["cell"] | {"model": "tiny/checkpoint-*"}}
    files["test"].write_text(yaml.safe_dump(test))
    record = run_experiment(
        _config(
            tmp_path,
            files,
            data={"clair": {"generate": files["clair"]}},
            objectives={"dpo": GRID["dpo"]},
            keep_weights=True,
        ),
        functions=FUNCTIONS,
    )
    chosen, other = record.cells
    assert (chosen.state, chosen.checkpoints) == ("done", 2)
    assert {one.view for one in record.comparisons} == {"last", "mean"}
    left = {path.parent.parent.name for path in tmp_path.glob("experiment/cells/*/model/check*")}
    assert left == {chosen.name}, "nobody asks for those of the other one"
    assert list(tmp_path.glob(f"experiment/cells/{other.name}/model/*.safetensors"))


def _longer(request):
    """A judge of two answers: the longer one is better."""
    first, second = request.messages[-1].content.split("<answer_2>")
    better = 1 if len(first.split("<answer_1>")[1]) > len(second) else 2
    return f"By the letters.\n<verdict>{better}</verdict>"


def test_what_is_advised_stands_beside_what_came_out(tmp_path):
    files = experiment_files(tmp_path)
    advise = {"judge": {"model": "longer"}, "controls": 0}
    (tmp_path / "advise.yaml").write_text(yaml.safe_dump(advise))
    config = experiment_config(
        tmp_path,
        files,
        data={"clair": {"generate": files["clair"]}},
        objectives={"zero": {"loss_type": "apo_zero"}, "down": {"loss_type": "apo_down"}},
        baseline="clair/zero",
        advise=tmp_path / "advise.yaml",
    )
    judge = FunctionChat(_longer)
    record = run_experiment(config, functions=FUNCTIONS, judge_model=judge)
    made = record.data["clair"]
    assert made.advice in ("zero", "down", "undecided", "refused") and made.reason
    assert made.jaccard.n == made.pairs and 0 < made.levenshtein_share.mean < 1
    (anchor,) = record.anchors
    assert (anchor.data, anchor.advice) == ("clair", made.advice)
    assert anchor.zero_minus_down is not None
    page = write_experiment_page(config.run_dir).read_text("utf-8")
    assert "What was advised before the training" in page and "Log-probabilities" in page


def _run(folder, files):
    few = {"objectives": {"dpo": {"loss_type": "sigmoid"}}, "choose": None, "development": None}
    run_experiment(_config(folder, files, **few, seeds=(0, 1)), functions=FUNCTIONS)


def test_a_killed_process_is_followed_by_two_that_share_what_is_left(tmp_path):
    files = experiment_files(tmp_path)
    context = multiprocessing.get_context("spawn")
    first = context.Process(target=_run, args=(tmp_path, files))
    first.start()
    cells = tmp_path / "experiment" / "cells"
    deadline = time.monotonic() + 240
    while not list(cells.glob("*/test.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    first.kill()
    first.join(30)
    assert first.exitcode == -signal.SIGKILL
    (ended,) = cells.glob("*/test.json")
    at = ended.stat().st_mtime_ns
    both = [context.Process(target=_run, args=(tmp_path, files)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(400)
        assert one.exitcode == 0
    record = read_record(tmp_path / "experiment")
    assert set(_states(record).values()) == {"done"}
    assert len(record.cells) == 4
    assert ended.stat().st_mtime_ns == at
    logs = [path.read_text("utf-8") for path in cells.glob("*/train.log")]
    # the killed one's child may have gone on by itself: nobody trained that cell beside it
    assert [log.count("trained on") for log in logs] == [1] * 4
