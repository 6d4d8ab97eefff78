"""Draws what a run's pairs look like and how its training went: run folder in, pages out.

    write           a run folder -> contrast.json, report.html, the data set's card
    contrast        a run's files -> counts that add up, statistics, length histograms
    pairs_page      the summary and the pairs -> report.html
    dataset_card    the summary and the pairs -> the README.md of the data set
    terminal        the summary -> a line and a table for the command line

    training_page   a training's folder -> training.html and PNG files
    training_run    a training's folder -> its metrics over the steps, and figures of them

    evaluation_page  an evaluation's folder -> evaluation.html
    evaluation_answers  an evaluation's folder -> what the models said, side by side
    lint_page        what a lint found -> lint.json, lint.html

    rounds_page     the folder of rounds -> rounds.html
    experiment_page  the folder of an experiment -> experiment.html
    run_page        pairs, training and evaluation of one run folder -> run.html

    forest_plot     figures of an experiment -> a plot
    html            what all pages have in common
    templates/      the pages, the card, the style sheet, the script

It knows run folders and nothing of what made them: no models, no revisions, no training.
"""

from clair_apo.report.contrast import ContrastSummary, summarise
from clair_apo.report.evaluation_page import write_evaluation_page
from clair_apo.report.experiment_page import write_experiment_page
from clair_apo.report.lint_page import lint_folder, write_lint
from clair_apo.report.rounds_page import write_rounds_page
from clair_apo.report.run_page import write_run_page
from clair_apo.report.terminal import contrast_table, counts_line, verification_lines
from clair_apo.report.training_page import TrainingReport, write_training_report
from clair_apo.report.training_run import find_training
from clair_apo.report.write import ReportFiles, write_report

__all__ = [
    "ContrastSummary",
    "ReportFiles",
    "TrainingReport",
    "contrast_table",
    "counts_line",
    "find_training",
    "lint_folder",
    "summarise",
    "verification_lines",
    "write_evaluation_page",
    "write_experiment_page",
    "write_lint",
    "write_report",
    "write_rounds_page",
    "write_run_page",
    "write_training_report",
]
