"""The archive of an experiment: what it holds, and what a cell that is run again begins with."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from controlled.recorded import pack, unpack

KEPT = (
    "experiment.yaml",
    "run/cells/a.dpo.seed0/outcome.json",
    "run/cells/b.dpo.seed0/outcome.json",
    "run/data/a/pairs.jsonl",
    "run/reference/0a1b/part.safetensors",
)
LEFT_OUT = (
    "run/cells/a.dpo.seed0/model/model.safetensors",
    "run/cells/a.dpo.seed0/model/tokenizer.json",
    "run/data/a/run/responses.jsonl",
    "run/requests.sqlite",
    "run/experiment.html",
)


def make(folder):
    for name in (*KEPT, *LEFT_OUT):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_weights_requests_and_pages_stay_behind_and_the_reference_comes_along(tmp_path):
    make(tmp_path / "made")
    pack(tmp_path / "made", tmp_path / "all.tar.xz")
    unpack(tmp_path / "all.tar.xz", tmp_path / "back")
    assert files(tmp_path / "back") == set(KEPT)


def test_a_cell_that_is_trained_again_is_not_there(tmp_path):
    make(tmp_path / "made")
    pack(tmp_path / "made", tmp_path / "all.tar.xz")
    unpack(tmp_path / "all.tar.xz", tmp_path / "back", without=["a.dpo.seed0"])
    assert files(tmp_path / "back") == set(KEPT) - {"run/cells/a.dpo.seed0/outcome.json"}
