"""Every notebook runs from top to bottom, as a reader would run it."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
LAST_FIGURES = {
    "01_clair_pairs_to_apo": "margin",
    "02_zero_or_down": "undecided",
    "03_experiment": "would find a difference of 0.10",
}
"""What the last output of each notebook holds."""


@pytest.mark.real
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    """83 and 20 seconds, and the third 54 to 69 seconds of processor time."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=280,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    errors = [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert errors == []
    assert LAST_FIGURES[path.stem] in notebook.cells[-2].outputs[-1].text
    assert list(tmp_path.iterdir()) == [], "a reader's own folder stays as it was"
