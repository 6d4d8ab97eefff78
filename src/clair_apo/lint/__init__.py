"""Looks preference pairs over before anybody trains on them: ours, or anybody's.

    run         pairs in, a report out: one reading of the rows
    rows        a file, a folder or a run -> pairs with their texts, and rows that are none
    rules       what is looked for: severities, thresholds, and why
    sides       what one pair shows: equal sides, refusals, marks of templates, languages
    prompts     what several rows show: repeated prompts and pairs, contradictions, other data
    tokens      what a trainer's tokenizer shows: templates that refuse, sides cut to the same
    figures     lengths and markup of both sides, with intervals
    report      the findings, as they are written down
    table       the findings in the terminal

The page is drawn by `clair_apo.report`.
"""

from clair_apo.lint.report import Example, Figure, Finding, LintReport
from clair_apo.lint.rules import RULES, Rule, Severity
from clair_apo.lint.run import lint
from clair_apo.lint.table import lint_table

__all__ = [
    "RULES",
    "Example",
    "Figure",
    "Finding",
    "LintReport",
    "Rule",
    "Severity",
    "lint",
    "lint_table",
]
