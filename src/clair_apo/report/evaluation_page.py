"""The page of an evaluation: its tables, its remarks, and answers of all models side by side."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from clair_apo.errors import RunError
from clair_apo.evaluation.tables import suite_tables
from clair_apo.files import atomic_writer, read_json_rows
from clair_apo.report.html import Part, render, render_part

RESULTS, ANSWERS, PAGE = "evaluation.json", "answers", "evaluation.html"
TEMPLATE = "evaluation.html.jinja"
MOST_PROMPTS = 30
"""Prompts whose answers the page shows at most: the first ones."""
MOST_MODELS = 4
"""Models whose answers stand side by side at most."""
MOST_CHARACTERS = 20_000
"""Of one text on the page."""


class ShownAnswer(NamedTuple):
    """One model's answer as it is on the page."""

    model: str
    text: str
    ending: str
    """In words: what ended it, or why there is none."""
    failed: tuple[str, ...]
    """Checks that it does not keep to."""


class ShownPrompt(NamedTuple):
    """A prompt with the answers of the models."""

    id: str
    turns: tuple[tuple[str, str], ...]
    """Role and text of each turn."""
    answers: tuple[ShownAnswer, ...]


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
    content = _results(folder)
    return {
        "name": folder.name if folder.name != "evaluation" else folder.resolve().parent.name,
        "models": content["models"],
        "suites": suite_tables(content),
        "prompts": list(_prompts(folder, content)),
        "most": MOST_PROMPTS,
        "left_out": content["models"][MOST_MODELS:],
    }


def _results(folder: Path) -> dict[str, Any]:
    path = folder / RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run clair-apo evaluate first") from None
    if not isinstance(content, dict) or "suites" not in content:
        raise RunError(f"{path}: is no evaluation of clair-apo evaluate")
    return content


def _prompts(folder: Path, content: dict[str, Any]) -> Iterator[ShownPrompt]:
    models = [m for m in content["models"] if (folder / ANSWERS / f"{m}.jsonl").exists()]
    models = models[:MOST_MODELS]
    rows = {model: _by_id(folder / ANSWERS / f"{model}.jsonl") for model in models}
    failed = {model: _failed(folder, content, model) for model in models}
    first = rows[models[0]] if models else {}
    for id in list(first)[:MOST_PROMPTS]:
        turns = tuple((turn["role"], _cut(turn["content"])) for turn in first[id]["prompt"])
        answers = tuple(
            _shown(model, rows[model][id], failed[model].get(id, ()))
            for model in models
            if id in rows[model]
        )
        yield ShownPrompt(id, turns, answers)


def _by_id(path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for _, row in read_json_rows(path)}


def _failed(folder: Path, content: dict[str, Any], model: str) -> dict[str, tuple[str, ...]]:
    """The checks that each answer of a model does not keep to, by the prompt's id."""
    found: dict[str, tuple[str, ...]] = {}
    for suite in content["suites"]:
        path = folder / suite / f"{model}.jsonl"
        for _, row in read_json_rows(path) if path.exists() else ():
            checks = row.get("checks")
            if isinstance(checks, dict):
                broken = tuple(name for name, holds in checks.items() if not holds)
                found[row["id"]] = found.get(row["id"], ()) + broken
    return found


def _shown(model: str, row: dict[str, Any], failed: tuple[str, ...]) -> ShownAnswer:
    if row["answer"] is None:
        return ShownAnswer(model, "", f"no answer: {row['failure']}", ())
    ending = {
        "stop": "",
        "length": "ran into the token limit",
        "content_filter": "broken off by a filter",
    }.get(row["finish_reason"], "")
    return ShownAnswer(model, _cut(row["answer"]), ending, failed)


def _cut(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}\n[{len(text) - MOST_CHARACTERS:,} more characters]"
