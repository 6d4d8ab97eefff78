"""The page and the figures of a training run, made of files alone."""

import json
import math
import re
from itertools import pairwise

import pytest

from clair_apo.errors import RunError
from clair_apo.report import find_training, write_training_report
from clair_apo.report.training_page import PAGE
from clair_apo.report.training_run import (
    MAX_POINTS,
    QUADRANTS,
    read_training,
    training_plots,
)
from clair_apo.run_folder import RunFolder

STEPS = range(1, 7)
SVG_MEDIA = "data:image/svg+xml;base64,"


def log(step):
    return {
        "step": step,
        "loss": 1 - step / 100,
        "rewards/chosen": step / 10,
        "rewards/rejected": -step / 10,
        "rewards/margins": step / 5,
        "logps/chosen": -100 + step,
        "logps/rejected": -100 - step,
        "ref_logps/chosen": -100.0,
        "ref_logps/rejected": -100.0,
        "saturation": 0.0,
        **{
            f"quadrants/{name}": share
            for name, share in zip(QUADRANTS, (0.4, 0.3, 0.2, 0.1), strict=True)
        },
    }


def evaluation(step):
    return {"step": step} | {f"eval_{k}": v for k, v in log(step).items() if k != "step"}


HISTORY = [*(log(step) for step in STEPS), evaluation(6)]


@pytest.fixture
def folder(tmp_path):
    """A training folder; other logs, and what the manifest says, can be given."""

    def make(history=HISTORY, **stage):
        place = tmp_path / "support" / "checkpoint"
        place.mkdir(parents=True, exist_ok=True)
        (place / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        if stage:
            RunFolder(place).record_stage("train", stage)
        return place

    return make


def test_curves_keep_each_metric_with_its_steps_and_leave_out_what_is_no_number(folder):
    history = [log(1), log(2) | {"loss": math.nan}, log(3), evaluation(3), {"no": "step"}]
    run = read_training(folder(history))
    assert run.name == "support"
    assert run.curve("loss").steps == (1, 3)
    assert run.curve("rewards/chosen").values == (0.1, 0.2, 0.3)
    assert run.curve("eval_rewards/chosen") == ((3,), (0.3,))
    assert run.curve("nothing").steps == ()
    assert (run.last("loss"), run.last("nothing")) == (0.97, None)


def test_a_training_is_found_in_its_own_folder_and_in_that_of_its_run(folder):
    place = folder()
    assert find_training(place) == find_training(place.parent) == place
    assert find_training(place.parent.parent) is None


def test_a_folder_without_training_and_a_torn_state_are_said(folder, tmp_path):
    with pytest.raises(RunError, match=r"no trainer_state\.json; run `clair-apo train`"):
        write_training_report(tmp_path)
    place = folder()
    for torn in ("{", "[]", '{"log_history": 3}', '{"log_history": [1]}'):
        (place / "trainer_state.json").write_text(torn)
        with pytest.raises(RunError, match="cannot be read"):
            write_training_report(place)
    assert not (place / PAGE).exists()


def test_three_figures_show_rewards_log_probs_and_quadrants_with_the_held_out_points(folder):
    rewards, logps, quadrants = training_plots(read_training(folder()))
    assert (rewards.name, logps.name, quadrants.name) == ("rewards", "logps", "quadrants")
    for plot in (rewards, logps, quadrants):
        assert plot.png.startswith(b"\x89PNG")
    for plot, words in (
        (rewards, ["chosen", "rejected", "margin", "chosen, held out", "reward", "step"]),
        (logps, ["chosen, reference", "rejected, reference", "log-probability (nats)"]),
        (quadrants, [label for label, _ in QUADRANTS.values()]),
    ):
        for word in words:
            assert f">{word}<".encode() in plot.svg, word


def test_a_chosen_answer_that_rises_is_drawn_rising(folder):
    """Its line in the SVG: y falls, for y grows downwards there."""
    svg = training_plots(read_training(folder()))[0].svg.decode()
    lines = [
        [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
        for path in re.findall(r'<path d="(M[^"]+)" clip-path[^>]*stroke: #1f6fb2', svg)
    ]
    (chosen,) = [line for line in lines if len(line) == len(STEPS)]
    assert chosen == sorted(chosen, reverse=True)


def test_what_was_not_logged_is_left_out_and_nothing_at_all_is_said(folder):
    without = [{k: v for k, v in log(s).items() if "quadrants" not in k} for s in STEPS]
    assert [p.name for p in training_plots(read_training(folder(without)))] == ["rewards", "logps"]
    files = write_training_report(folder([]))
    assert files.plots == ()
    assert "No metric was logged" in files.page.read_text()


def test_the_page_and_the_png_files_lie_beside_the_state_and_are_the_same_again(folder):
    place = folder(objective="apo_zero", why=["apo_zero raises the chosen answers."], trained=40)
    files = write_training_report(place)
    assert files.page == place / "training.html"
    assert [path.name for path in files.plots] == ["rewards.png", "logps.png", "quadrants.png"]
    first = {path: path.read_bytes() for path in (files.page, *files.plots)}
    write_training_report(place.parent)
    assert {path: path.read_bytes() for path in first} == first
    page = files.page.read_text()
    assert page.count(SVG_MEDIA) == 3
    assert '<dd dir="auto">apo_zero</dd>' in page
    assert "apo_zero raises the chosen answers." in page
    assert "None: nothing contradicted the objective." in page


def test_the_table_shows_the_last_log_beside_the_last_evaluation(folder):
    page = write_training_report(folder()).page.read_text()
    row = re.search(r"<code>rewards/chosen</code></th>.*?</tr>", page, re.S)[0]
    assert re.findall(r'"number">(.*?)<', row) == ["0.600", "0.600"]
    row = re.search(r"<code>rewards/rejected</code></th>.*?</tr>", page, re.S)[0]
    assert re.findall(r'"number">(.*?)<', row) == ["\N{MINUS SIGN}0.600"] * 2
    assert "<code>saturation</code>" in page


def test_alarms_stand_on_the_page_in_words(folder):
    alarm = {"name": "saturated", "step": 7, "what": "95% are saturated", "advice": "Stop here"}
    page = write_training_report(folder(alarms=[alarm])).page.read_text()
    assert "saturated at step 7" in page
    assert "95% are saturated. Stop here" in page
    assert "nothing contradicted" not in page


def test_what_others_wrote_is_text_and_the_policy_allows_no_script(folder):
    evil = "<script>alert(1)</script>"
    place = folder(
        objective=evil,
        why=[evil],
        model=f'"{evil}',
        alarms=[{"name": evil, "step": evil, "what": evil, "advice": evil}],
        history=[log(1) | {f"x/{evil}": 1.0}],
    )
    page = write_training_report(place).page.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "script-src" not in policy
    assert not re.search(r"https?:", page), "nothing is fetched"


def test_odd_entries_of_a_manifest_do_no_harm(folder):
    page = write_training_report(folder(alarms="none", why=3, objective=None, beta=[1])).page
    assert "Alarms" in page.read_text()


def test_of_very_many_logs_no_line_has_more_points_than_can_be_seen(folder):
    many = read_training(folder([log(step) for step in range(1, 7 * MAX_POINTS + 4)]))
    steps = many.curve("loss").thinned().steps
    assert MAX_POINTS / 2 < len(steps) <= MAX_POINTS
    assert steps[-1] == 7 * MAX_POINTS + 3, "the last one counts"
    assert {later - step for step, later in pairwise(steps)} == {8}
    few = read_training(folder())
    assert few.curve("loss").thinned() == few.curve("loss")
    assert few.curve("never").thinned() == ((), ())
    # two coordinates of fewer than 20 characters for each point of 7 lines and 4 areas
    sizes = [sum(len(plot.svg) for plot in training_plots(run)) for run in (many, few)]
    assert sizes[0] < sizes[1] + (7 + 4 * 2) * MAX_POINTS * 2 * 20


@pytest.mark.parametrize(("written", "objective"), [("checkpoint", "apo_zero"), ("adapter", None)])
def test_a_run_folder_of_an_earlier_version_says_only_what_is_of_this_training(
    folder, written, objective
):
    """It has one record, in the run folder, of the training that ended last."""
    place = folder()
    stage = {"output_dir": f"runs/support/{written}", "objective": "apo_zero"}
    RunFolder(place.parent).record_stage("train", stage)
    assert read_training(place).facts.get("objective") == objective
    RunFolder(place).record_stage("train", {"objective": "its own"})
    assert read_training(place).facts["objective"] == "its own"


OLD_QUADRANTS = (
    *("winner_up_loser_down", "winner_up_loser_up"),
    *("winner_down_loser_down", "winner_down_loser_up"),
)


def old(name):
    """The name that an earlier version gave to a metric."""
    if "quadrants" not in name:
        return name
    return name.replace("chosen_", "winner_").replace("rejected_", "loser_")


def test_a_training_of_an_earlier_version_is_drawn_with_todays_names(folder):
    alarms = [
        {"name": name, "step": 3, "what": "It falls", "advice": "Stop"}
        for name in ("winner_falls", "winner_collapses", "saturated")
    ]
    history = [{old(name): value for name, value in entry.items()} for entry in HISTORY]
    assert {f"quadrants/{name}" for name in OLD_QUADRANTS} <= history[0].keys()
    place = folder(history, alarms=alarms, objective="apo_zero")
    files = write_training_report(place)
    assert [path.name for path in files.plots] == ["rewards.png", "logps.png", "quadrants.png"]
    page = files.page.read_text()
    for name in ("chosen_falls", "chosen_collapses", "saturated"):
        assert f"<h3>{name} at step 3</h3>" in page
    row = re.search(r"<code>quadrants/chosen_up_rejected_down</code></th>.*?</tr>", page, re.S)[0]
    assert re.findall(r'"number">(.*?)<', row) == ["0.400", "0.400"]
    assert "winner_" not in page
