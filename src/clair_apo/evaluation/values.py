"""The values that figures are the means of, row by row: what later comparisons need.

`values.jsonl` in an evaluation's folder has a line for each model and figure. Figures that are no
means over rows, such as distinct-n, are not in it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from clair_apo.errors import RunError
from clair_apo.evaluation.suites.base import SuiteResult
from clair_apo.evaluation.suites.figures import RowFigure
from clair_apo.files import atomic_writer

FILE = "values.jsonl"

Values = dict[str, dict[str, RowFigure]]
"""By model, and by `<suite>.<figure>`."""


def write_values(folder: Path, results: Mapping[str, SuiteResult]) -> None:
    """Write the values of every figure.

    Args:
        folder: of the evaluation.
        results: by the suite's key.
    """
    with atomic_writer(folder / FILE) as file:
        for suite, result in results.items():
            for model, figures in result.figures.items():
                for name, figure in figures.items():
                    if isinstance(figure, RowFigure):
                        line = {
                            "model": model,
                            "figure": f"{suite}.{name}",
                            "unit": figure.unit,
                            "factor": figure.factor,
                            "values": {id: float(value) for id, value in figure.values.items()},
                            "clusters": figure.clusters and dict(figure.clusters),
                        }
                        file.write(json.dumps(line) + "\n")


def read_values(folder: Path) -> Values:
    """The values of an evaluation.

    Raises:
        RunError: the file is not there or cannot be read.
    """
    found: Values = {}
    path = folder / FILE
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            figure = RowFigure(row["values"], row["clusters"], row["unit"], row["factor"])
            found.setdefault(row["model"], {})[row["figure"]] = figure
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run the evaluation again") from None
    return found
