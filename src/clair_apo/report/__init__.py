"""What a run's pairs look like: run folder in, numbers and a page out.

The data goes one way:

    contrast    a run's files -> counts that close, statistics, length histograms
    diff        two answers -> the words in which they differ
    figure      the histogram -> where its bars and labels go
    page        all of it -> one self-contained HTML file (templates/)
    terminal    the summary -> a line and a table for the command line
    card        the data set's README.md, with what `datasets` must know to load it
    write       a run folder -> contrast.json, report.html and the card in it

Knows run folders and nothing of what made them: no models, no revisions, no training.
"""

from clair_apo.report.contrast import ContrastSummary, summarise
from clair_apo.report.terminal import contrast_table, counts_line
from clair_apo.report.write import ReportFiles, write_report

__all__ = [
    "ContrastSummary",
    "ReportFiles",
    "contrast_table",
    "counts_line",
    "summarise",
    "write_report",
]
