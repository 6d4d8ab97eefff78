"""The page of an evaluation: its tables, its remarks, and answers of all models side by side."""

from pathlib import Path
from typing import Any

from clair_apo.evaluation.tables import suite_tables
from clair_apo.files import atomic_writer
from clair_apo.report.evaluation_answers import (
    ANSWERS,
    read_answers_of,
    read_results,
    side_by_side,
)
from clair_apo.report.html import Part, render, render_part

PAGE, TEMPLATE = "evaluation.html", "evaluation.html.jinja"
MOST_PROMPTS = 30
"""Prompts whose answers the page shows at most: the first ones."""
MOST_MODELS = 4
"""Models whose answers stand side by side at most."""


def write_evaluation_page(folder: Path) -> Path:
    """Draw an evaluation into `evaluation.html` in its folder; the same files give the same bytes.

    Args:
        folder: the `run_dir` of `clair-apo evaluate`.

    Raises:
        RunError: there is no evaluation in it.
        DataError: a file of it has a line that is not its row.
    """
    page = render(TEMPLATE, _values(folder))
    with atomic_writer(folder / PAGE) as file:
        file.write(page)
    return folder / PAGE


def evaluation_part(folder: Path) -> Part:
    """An evaluation as a part of a larger page; raises as `write_evaluation_page`."""
    return render_part("evaluation", "Evaluation", TEMPLATE, _values(folder))


def _values(folder: Path) -> dict[str, Any]:
    content = read_results(folder)
    models = [m for m in content["models"] if (folder / ANSWERS / f"{m}.jsonl").exists()]
    answers = [read_answers_of(folder, content, model) for model in models[:MOST_MODELS]]
    ids = list(answers[0])[:MOST_PROMPTS] if answers else []
    return {
        "name": folder.name if folder.name != "evaluation" else folder.resolve().parent.name,
        "models": content["models"],
        "suites": suite_tables(content),
        "prompts": side_by_side(answers, ids),
        "most": MOST_PROMPTS,
        "left_out": content["models"][MOST_MODELS:],
    }
