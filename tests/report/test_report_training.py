"""The page and the figures of a training run, made of files alone."""

import json
import math
import re
from itertools import pairwise

import pytest

from clair_apo.errors import RunError
from clair_apo.report import find_training, write_training_report
from clair_apo.report.terminal import NONE
from clair_apo.report.training_answers import MAX_COLUMNS
from clair_apo.report.training_page import PAGE
from clair_apo.report.training_run import (
    MAX_POINTS,
    QUADRANTS,
    read_training,
    training_plots,
)
from clair_apo.run_folder import RunFolder
from tests.helpers.training_logs import HISTORY, STEPS, evaluation, log

SVG_MEDIA = "data:image/svg+xml;base64,"


@pytest.fixture
def folder(tmp_path):
    """A training folder; other logs, and what the manifest says, can be given."""

    def make(history=HISTORY, answers=(), **stage):
        place = tmp_path / "support" / "checkpoint"
        place.mkdir(parents=True, exist_ok=True)
        if answers:
            lines = "".join(json.dumps(row) + "\n" for row in answers)
            (place / "watched_answers.jsonl").write_text(lines)
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
    assert re.findall(r"<td[^>]*>(.*?)<", row) == ["0.600", "0.600"]
    row = re.search(r"<code>rewards/rejected</code></th>.*?</tr>", page, re.S)[0]
    assert re.findall(r"<td[^>]*>(.*?)<", row) == ["\N{MINUS SIGN}0.600"] * 2
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
    assert re.findall(r"<td[^>]*>(.*?)<", row) == ["0.400", "0.400"]
    assert "winner_" not in page


# --- watched answers and single tokens


def answered(step, number=0, **fields):
    usual = {
        "step": step,
        "id": f"p{number}",
        "prompt": f"Question {number}?",
        "chosen": f"Chosen {number}.",
        "answer": f"Answer {number} at {step}.",
        "ended": True,
        "tokens": 5,
        "rep_3": 0.0,
        "checks": {"next_step": step > 3},
    }
    return usual | fields


def page_of(place):
    return write_training_report(place).page.read_text(encoding="utf-8")


def test_the_answers_to_a_prompt_stand_side_by_side_in_the_order_of_their_steps(folder):
    rows = [answered(step, number) for step in (0, 3, 6) for number in (0, 1)]
    rows[-1] |= {"ended": False, "tokens": 64, "rep_3": 0.917}
    page = page_of(folder(answers=rows))
    first, second = re.findall(r'(?s)<article class="watched">.*?</article>', page)
    assert re.findall(r"Answer 0 at (\d)|>(Chosen 0)\.", first) == [
        ("0", ""),
        ("3", ""),
        ("6", ""),
        ("", "Chosen 0"),
    ]
    assert "Question 0?" in first and "Question 1?" in second
    assert "Step 3: ends after 5 tokens, rep-3 0.00; breaks next_step<" in first
    assert "Step 6: ends after 5 tokens, rep-3 0.00<" in first
    assert "Step 6: does not end: cut at 64 tokens, rep-3 0.92" in second
    assert "All are in <code>watched_answers.jsonl</code>" in page


def test_of_many_watches_the_first_and_the_last_are_shown_and_some_between(folder):
    rows = [answered(step) for step in range(0, 210, 10)]
    page = page_of(folder(answers=rows))
    shown = [int(step) for step in re.findall(r"<h4>Step (\d+)", page)]
    assert (len(shown), shown[0], shown[-1]) == (MAX_COLUMNS, 0, 200)
    gaps = [after - before for before, after in pairwise(shown)]
    assert max(gaps) - min(gaps) <= 10
    assert "6 of 21 watches are shown; all are in" in page


def test_what_a_model_wrote_is_text_and_never_markup(folder):
    hostile = "</div></article><script>alert(1)</script><img src=x onerror=alert(2)>"
    fields = {"answer": hostile, "prompt": hostile, "chosen": hostile, "id": hostile}
    page = page_of(folder(answers=[answered(0, **fields, checks={"<b>": False})]))
    assert "<script>" not in page and "<img src=x" not in page and "<b>" not in page
    assert page.count("&lt;script&gt;alert(1)") == 3


def test_a_run_that_was_not_watched_has_no_such_section(folder):
    assert "What the policy answers" not in page_of(folder())


@pytest.mark.parametrize("line", ['{"step": 3}', "[1]", '{"step": "x"', json.dumps({"a": 1})])
def test_a_line_that_is_no_watched_answer_is_named_with_what_to_do(folder, line):
    place = folder(answers=[answered(0)])
    with (place / "watched_answers.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"watched_answers\.jsonl:2: .*; delete the file") as caught:
        write_training_report(place)
    assert "\n" not in str(caught.value)


def test_single_tokens_and_watched_answers_have_figures_where_they_were_logged(folder):
    tokens = {
        "first_difference_logps/chosen": -4.0,
        "hardest_logps/chosen": -9.0,
        "end_logps/rejected": -2.0,
        "followed/share": 0.1,
        "followed/whole": 0.0,
    }
    watches = [
        {"step": step, "watch/ended": 0.5, "watch/rep_3": 0.1, "watch/checks/short": 1.0}
        for step in (0, 6)
    ]
    history = [log(step) | tokens for step in STEPS] + [evaluation(6), *watches]
    place = folder(history)
    plots = training_plots(read_training(place))
    names = [plot.name for plot in plots]
    assert names == ["rewards", "logps", "quadrants", "tokens", "ends", "followed", "watch"]
    drawn = plots[-1].svg.decode()
    assert "end by themselves" in drawn and ">short<" in drawn
    page = page_of(place)
    assert all(f'id="{name}"' in page for name in names)
    row = re.search(r"<code>watch/ended</code></th>(.*?)</tr>", page)[1]
    assert re.findall(r">([^<]+)</td>", row) == [NONE, "0.500"]
    assert [plot.name for plot in training_plots(read_training(folder()))] == names[:3]
