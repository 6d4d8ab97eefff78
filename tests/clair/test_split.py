"""The pairs as a data set that others load."""

import json

import pytest
from datasets import load_dataset

from clair_apo.apo import load_pairs, split_pairs
from clair_apo.clair.dataset import SplitCounts, write_splits
from clair_apo.errors import DataError
from clair_apo.run_folder import is_held_out
from tests.helpers.clair_runs import Replying, edit_reply, make_config, run, write_rows

REPLY = Replying([("", edit_reply(("old", "new")))])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of 24 prompts with the default share of test pairs."""
    folder = tmp_path_factory.mktemp("split")
    data = write_rows(
        folder / "p.jsonl", [{"prompt": f"q{n}", "answer": f"old {n}"} for n in range(24)]
    )
    run(make_config(folder, data), Replying([]), REPLY)
    return folder / "run"


def lines(path):
    return path.read_text("utf-8").splitlines() if path.exists() else []


def test_a_run_leaves_both_splits_with_every_pair_once_in_its_order(finished):
    pairs = lines(finished / "pairs.jsonl")
    out = {split: lines(finished / "dataset" / f"{split}.jsonl") for split in ("train", "test")}
    ids = {line: json.loads(line)["id"] for line in pairs}
    assert out["test"] == [line for line in pairs if is_held_out(ids[line], 0.1)]
    assert out["train"] == [line for line in pairs if not is_held_out(ids[line], 0.1)]
    assert out["train"] and out["test"], "24 prompts: else this test shows nothing"
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["splits"] == {name: len(rows) for name, rows in out.items()}


def test_the_test_split_is_what_training_holds_out_with_the_same_share(finished):
    split = split_pairs(load_pairs(str(finished / "pairs.jsonl")), held_out=0.1)
    for name, pairs in (("train", split.train), ("test", split.held_out)):
        rows = lines(finished / "dataset" / f"{name}.jsonl")
        assert {json.loads(row)["id"] for row in rows} == {pair.id for pair in pairs}


def test_datasets_finds_both_splits_in_the_folder(finished, tmp_path):
    data = load_dataset(str(finished / "dataset"), cache_dir=str(tmp_path))
    assert set(data) == {"train", "test"}
    for name, rows in data.items():
        expected = [json.loads(r) for r in lines(finished / "dataset" / f"{name}.jsonl")]
        assert [row["chosen"] for row in rows] == [row["chosen"] for row in expected]


@pytest.mark.parametrize(("size", "left"), [(0.0, "train"), (1.0, "test")])
def test_a_split_without_a_pair_has_no_file_and_an_older_one_is_removed(
    finished, tmp_path, size, left
):
    write_splits(finished / "pairs.jsonl", tmp_path, 0.5)
    counts = write_splits(finished / "pairs.jsonl", tmp_path, size)
    assert [path.name for path in tmp_path.iterdir()] == [f"{left}.jsonl"]
    assert counts == SplitCounts(**({"train": 0, "test": 0} | {left: 24}))


def test_a_broken_file_of_pairs_leaves_the_older_splits(finished, tmp_path):
    write_splits(finished / "pairs.jsonl", tmp_path / "dataset", 0.5)
    before = {path: path.read_bytes() for path in (tmp_path / "dataset").iterdir()}
    pairs = lines(finished / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text("\n".join([*pairs[:5], "{}"]))
    with pytest.raises(DataError, match=r"pairs\.jsonl:6: not a PreferencePair"):
        write_splits(tmp_path / "pairs.jsonl", tmp_path / "dataset", 0.5)
    assert {path: path.read_bytes() for path in (tmp_path / "dataset").iterdir()} == before
