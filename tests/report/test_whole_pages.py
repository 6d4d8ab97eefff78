"""The pages of a whole run and of an experiment: every part, escaped, drawn by a browser."""

import re
import shutil

import pytest
from typer.testing import CliRunner

from clair_apo.cli import app
from clair_apo.errors import RunError
from clair_apo.report import (
    write_evaluation_page,
    write_experiment_page,
    write_lint,
    write_report,
    write_rounds_page,
    write_run_page,
    write_training_report,
)
from tests.helpers.browser import audited
from tests.helpers.lint_pairs import linted, sound_pairs
from tests.helpers.page_folders import FIGURES, make_experiment, make_rounds, make_whole_run


def test_the_page_of_a_run_holds_its_pairs_its_training_and_its_evaluation(tmp_path):
    page = write_run_page(make_whole_run(tmp_path)).read_text("utf-8")
    assert re.findall(r'<section class="part" id="part-(\w+)"', page) == [
        "pairs",
        "training",
        "evaluation",
    ]
    assert "How far apart the two answers are" in page and "chosen_falls at step 3" in page
    assert "What the policy answers" in page and "Sew 6 times." in page
    assert "trained - base" in page and "ran into the token limit" in page
    assert page.count("<h1") == 4 and page.count("<main") == 1


def test_what_models_wrote_is_text_on_both_pages(tmp_path):
    run = write_run_page(make_whole_run(tmp_path)).read_text("utf-8")
    experiment = write_experiment_page(make_experiment(tmp_path)).read_text("utf-8")
    for page, scripts in ((run, 1), (experiment, 0)):
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so on." in page
        assert len(re.findall("<script", page)) == scripts
        assert all(
            at.startswith(("#", "data:")) for at in re.findall(r'(?:src|href)="([^"]*)', page)
        )
        assert "default-src 'none'" in page


def test_the_page_of_an_experiment_has_every_table_figure_and_answer(tmp_path):
    page = write_experiment_page(make_experiment(tmp_path)).read_text("utf-8")
    for figure in FIGURES:
        assert f"{figure.removeprefix('-')} of every data set and objective" in page
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert titles == [
        "Failed cells",
        "Figures",
        "Choices",
        "What was advised before the training",
        "Data",
        "Cells",
        "Pairs",
        "Trainings",
        "What the models say",
    ]
    assert page.count("<img") == len(FIGURES) + 4  # a plot of each figure, and of each training
    assert "judged.zero.beta0.1.seed0 says so." in page
    assert page.count('class="side chosen"') == 2 * 3  # three pairs of each data set


def test_an_experiment_whose_models_answered_no_prompts_is_drawn_without_answers(tmp_path):
    experiment = make_experiment(tmp_path)
    for answers in experiment.glob("cells/*/test/*/answers"):
        shutil.rmtree(answers)
    page = write_experiment_page(experiment).read_text("utf-8")
    assert "No cell was evaluated yet." in page and "says so." not in page


def test_the_page_of_rounds_links_their_pages_and_escapes_what_it_names(tmp_path):
    folder = make_rounds(tmp_path, make_whole_run(tmp_path))
    page = write_rounds_page(folder).read_text("utf-8")
    for number in (1, 2):
        assert (folder / f"round-{number}/pairs/report.html").exists()
        assert f'href="round-{number}/evaluation/evaluation.html"' in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script" not in page


def test_the_same_folders_give_the_same_pages(tmp_path):
    run, experiment = make_whole_run(tmp_path), make_experiment(tmp_path)
    first = write_run_page(run).read_bytes(), write_experiment_page(experiment).read_bytes()
    again = write_run_page(run).read_bytes(), write_experiment_page(experiment).read_bytes()
    assert again == first


def test_a_run_of_one_part_has_no_page_of_its_whole(tmp_path):
    run = make_whole_run(tmp_path)
    assert write_run_page(run / "checkpoint") is None
    assert not (run / "checkpoint" / "run.html").exists()


def test_report_draws_what_a_folder_is_of(tmp_path):
    run, experiment = make_whole_run(tmp_path), make_experiment(tmp_path)
    first = CliRunner().invoke(app, ["report", str(run)])
    second = CliRunner().invoke(app, ["report", str(experiment)])
    assert f"whole run: {run / 'run.html'}" in first.stdout.replace("\n", "")
    assert f"experiment: {experiment / 'experiment.html'}" in second.stdout.replace("\n", "")
    assert (run / "report.html").exists() and (run / "checkpoint" / "training.html").exists()


def test_a_folder_without_an_experiment_is_refused(tmp_path):
    with pytest.raises(RunError, match="run `clair-apo experiment` first"):
        write_experiment_page(tmp_path)


def _pages(tmp_path):
    run = make_whole_run(tmp_path)
    return {
        "run": write_run_page(run),
        "rounds": write_rounds_page(make_rounds(tmp_path, run)),
        "pairs": write_report(run).page,
        "training": write_training_report(run / "checkpoint").page,
        "evaluation": write_evaluation_page(run / "evaluation"),
        "experiment": write_experiment_page(make_experiment(tmp_path)),
        "lint": write_lint(linted(tmp_path, sound_pairs(20)), tmp_path / "lint"),
    }


@pytest.mark.real
@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (360, False), (1280, True), (360, True)]
)
def test_no_page_has_a_barrier_that_axe_finds(tmp_path, width, dark):
    """About 10 s each: seven pages at a width, light or dark."""
    seen = {}
    for name, page in _pages(tmp_path).items():
        folder = tmp_path / "audits" / name
        folder.mkdir(parents=True)
        seen[name] = audited(page, folder, width=width, dark=dark)
    assert min(one.pop("rules") for one in seen.values()) > 15
    sound = {"violations": [], "errors": [], "twice": [], "over": [], "outside": [], "dark": dark}
    assert seen == dict.fromkeys(seen, sound | {"width": width})
