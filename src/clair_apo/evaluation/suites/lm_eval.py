"""Suite `lm_eval`: tasks of lm-evaluation-harness, with our intervals over its samples.

The harness is called, not rewritten: it makes the prompts and scores the answers. It is the extra
`eval` (`pip install 'clair-apo[eval]'`).
"""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal

from pydantic import Field

from clair_apo.config import UserPath
from clair_apo.console import say
from clair_apo.errors import ConfigError
from clair_apo.evaluation.suites.base import (
    EvaluatedModel,
    SuiteConfig,
    SuiteContext,
    SuiteResult,
)
from clair_apo.evaluation.suites.figures import Figure, RowFigure, Unavailable

_RECORDED = "files of answers cannot be scored by the harness; name a model"


class LmEval(SuiteConfig):
    """Tasks of lm-evaluation-harness; a model's folder is asked in this process."""

    needs_prompts: ClassVar[bool] = False

    suite: Literal["lm_eval"] = "lm_eval"
    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of the harness's tasks, groups or tags, or of yours in `include_path`."""
    include_path: UserPath | None = None
    """A folder with task files of your own, which may name local data."""
    num_fewshot: int | None = Field(None, ge=0)
    """Examples before each question; by default what the task says."""
    limit: int | None = Field(None, gt=0)
    """Documents of each task, from its beginning; by default all."""

    def run(self, context: SuiteContext) -> SuiteResult:
        """Have the harness score every model that can be asked.

        Raises:
            ConfigError: the extra is not installed, or a task is not known or cannot be asked.
            DataError: a task's data cannot be loaded.
        """
        try:
            from clair_apo.evaluation.suites.harness import Harness
        except ImportError as error:
            raise ConfigError(
                f"suite lm_eval needs the extra `eval` ({error}): pip install 'clair-apo[eval]'"
            ) from None
        if context.estimating:
            why = Unavailable("an estimate does not count what the harness asks")
            return SuiteResult({m.name: {"lm_eval": why} for m in context.models})
        harness = Harness(self.tasks, self.include_path, self.num_fewshot, self.limit)
        rows: dict[str, list[dict[str, Any]]] = {}
        for model in context.models:
            if model.spec is not None:
                say(f"lm_eval: {', '.join(self.tasks)} of {model.name}")
                rows[model.name] = harness.rows(model, context)
        return SuiteResult(
            figures=_all_figures(context.models, rows),
            remarks=[f"lm-evaluation-harness {harness.version}"],
            rows=rows,
        )


def _all_figures(
    models: Sequence[EvaluatedModel], rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, Figure]]:
    measured = {name: figures_of(found) for name, found in rows.items()}
    names = list(dict.fromkeys(name for figures in measured.values() for name in figures))
    return {
        model.name: measured.get(model.name, dict.fromkeys(names, Unavailable(_RECORDED)))
        for model in models
    }


def figures_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """The figures of one model's rows: `task/metric`, with `,filter` where the task has filters.

    Args:
        rows: a document's metrics under one filter each, with keys `task`, `doc`, `filter` and
            `metrics`.
    """
    values: dict[str, dict[str, Any]] = {}
    for row in rows:
        for metric, value in row["metrics"].items():
            name = f"{row['task']}/{metric}"
            name += "" if row["filter"] == "none" else f",{row['filter']}"
            values.setdefault(name, {})[f"{row['task']}/{row['doc']}"] = value
    return {name: _figure(of_doc) for name, of_doc in values.items()}


def _figure(values: Mapping[str, Any]) -> Figure:
    if not all(isinstance(value, Real) for value in values.values()):
        return Unavailable("the harness computes it over all documents at once: no mean of them")
    numbers = {doc: float(value) for doc, value in values.items()}
    return RowFigure(numbers, unit=all(0 <= number <= 1 for number in numbers.values()))
