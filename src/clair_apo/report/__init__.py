"""What a run's pairs look like, and where its training went: run folder in, pages out.

The data goes one way:

    contrast    a run's files -> counts that close, statistics, length histograms
    diff        two answers -> the words in which they differ
    figure      the histogram -> where its bars and labels go
    page        all of it -> one self-contained HTML file (templates/)
    terminal    the summary -> a line and a table for the command line
    card        the data set's README.md, with what `datasets` must know to load it
    write       a run folder -> contrast.json, report.html and the card in it

    curves      a training's folder -> its metrics over the steps
    plots       curves -> figures, as PNG and SVG
    training    all of it -> training.html and the PNG files

`html` is what both pages have in common.

Knows run folders and nothing of what made them: no models, no revisions, no training.
"""

from clair_apo.report.contrast import ContrastSummary, summarise
from clair_apo.report.terminal import contrast_table, counts_line, verification_lines
from clair_apo.report.training_page import find_training
from clair_apo.report.training_run import TrainingReport, write_training_report
from clair_apo.report.write import ReportFiles, write_report

__all__ = [
    "ContrastSummary",
    "ReportFiles",
    "TrainingReport",
    "contrast_table",
    "counts_line",
    "find_training",
    "summarise",
    "verification_lines",
    "write_report",
    "write_training_report",
]
