"""Mixtures of data sets: which pairs are in, and that each data set is seen by itself."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from trl.scripts.utils import DatasetConfig

from clair_apo.apo.arguments import parse_arguments, resolved_yaml
from clair_apo.apo.data import load_mixture, load_split_pairs
from clair_apo.apo.metrics import PairOutcomes, source_metrics
from clair_apo.apo.train import train
from clair_apo.errors import ConfigError
from tests.helpers.tiny_apo import make_rows


@pytest.fixture
def write(tmp_path):
    def write(name, count, seed, **more):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(r | more) + "\n" for r in make_rows(count, seed=seed)))
        return str(path)

    return write


def counts(split):
    return [(source.name, source.trained, source.held_out, source.left) for source in split.sources]


def test_without_fractions_every_pair_of_every_data_set_is_in_and_bears_its_name(write):
    parts = [DatasetConfig(write("one.jsonl", 5, 1)), DatasetConfig(write("two.jsonl", 3, 2))]
    split = load_mixture(parts, 0)
    assert counts(split) == [("one", 5, 0, 0), ("two", 3, 0, 0)]
    named = {pair.dataset_source for pair in split.train}
    assert named == {"one", "two"} and len(split.train) == 8
    ids = [pair.id for pair in split.train]
    assert ids == sorted(ids), "in the order of ids, as of one data set"


def test_fractions_make_the_largest_mixture_in_which_no_pair_is_taken_twice(write):
    parts = [
        DatasetConfig(write("one.jsonl", 30, 1), fraction=3),
        DatasetConfig(write("two.jsonl", 40, 2), fraction=1),
    ]
    split = load_mixture(parts, 0)
    assert counts(split) == [("one", 30, 0, 0), ("two", 10, 0, 30)], "30 : 10 as 3 : 1"
    assert [str(source) for source in split.sources] == [
        "one 30 and 0",
        "two 10 and 0 (30 left out)",
    ]
    alone = load_split_pairs(parts[1].path, "train", 0).train[:10]
    assert {p.id for p in split.train if p.dataset_source == "two"} == {p.id for p in alone}


def test_held_out_pairs_are_those_of_each_data_set_and_their_share_is_kept(write):
    parts = [
        DatasetConfig(write("one.jsonl", 60, 1), fraction=0.5),
        DatasetConfig(write("two.jsonl", 200, 2), fraction=0.5),
    ]
    split = load_mixture(parts, 0.3)
    each = [load_split_pairs(part.path, "train", 0.3) for part in parts]
    (_, one, out_one, left_one), (_, two, out_two, left_two) = counts(split)
    assert (one, out_one, left_one) == (len(each[0].train), len(each[0].held_out), 0)
    assert two == one and left_two == 200 - two - out_two
    assert out_two == round(len(each[1].held_out) * two / len(each[1].train)) > 0
    assert not {p.id for p in split.train} & {p.id for p in split.held_out}


@pytest.mark.parametrize(
    ("paths", "splits", "names"),
    [
        (("a/x.jsonl", "b/y.jsonl"), "tt", ["x", "y"]),
        (("a/pairs.jsonl", "b/pairs.jsonl"), "tt", ["a_pairs", "b_pairs"]),
        (("a/x", "a/x"), "tv", ["x_t", "x_v"]),
    ],
)
def test_a_data_set_is_named_by_the_shortest_end_of_its_path(
    paths, splits, names, write, monkeypatch
):
    pairs = load_split_pairs(write("some.jsonl", 2, 0), "train", 0)
    monkeypatch.setattr("clair_apo.apo.data.load_split_pairs", lambda *args: pairs)
    parts = [DatasetConfig(path, split=s) for path, s in zip(paths, splits, strict=True)]
    assert [source.name for source in load_mixture(parts, 0).sources] == names


def test_where_one_data_set_has_weights_the_pairs_of_others_weigh_one(write):
    parts = [
        DatasetConfig(write("one.jsonl", 3, 1, weight=0.5)),
        DatasetConfig(write("two.jsonl", 3, 2)),
    ]
    weights = {p.dataset_source: p.weight for p in load_mixture(parts, 0).train}
    assert weights == {"one": 0.5, "two": 1.0}
    assert all(p.weight is None for p in load_mixture(parts[1:], 0).train)


WRONG = {
    "name is not read here": [{"path": "a", "name": "b"}],
    "columns is not read here": [{"path": "a", "columns": ["b"]}],
    "fraction must be 0 or above, got -1": [{"path": "a", "fraction": -1}],
    "a fraction, or none of them": [{"path": "a", "fraction": 1}, {"path": "b"}],
    "every fraction is 0": [{"path": "a", "fraction": 0}, {"path": "b", "fraction": 0}],
    "same path and split": [{"path": "a"}, {"path": "a"}],
}


@pytest.mark.parametrize("said", WRONG)
def test_a_mixture_that_cannot_be_is_refused_before_anything_is_read(said):
    with pytest.raises(ConfigError, match=said):
        load_mixture([DatasetConfig(**part) for part in WRONG[said]], 0)


@pytest.fixture
def run_config(write, tiny_folder, tmp_path):
    """The path of a YAML that trains the tiny model on two data sets."""
    values = {
        "model_name_or_path": str(tiny_folder),
        "datasets": [
            {"path": write("one.jsonl", 12, 1), "fraction": 0.75},
            {"path": write("two.jsonl", 12, 2), "fraction": 0.25},
        ],
        "held_out": 0.3,
        "output_dir": str(tmp_path / "out"),
        "reference_cache": str(tmp_path / "cache"),
        "max_steps": 1,
        "per_device_train_batch_size": 12,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "watch_prompts": 0,
    }

    def write_config(**options):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(values | options))
        return ["--config", str(path)]

    return write_config


def test_a_run_shows_each_data_set_in_metrics_card_and_manifest(run_config):
    result = train(parse_arguments(run_config()))
    folder = Path(result.output_dir)
    manifest = json.loads((folder / "manifest.json").read_text())["stages"]["train"]
    named = {source["name"]: source for source in manifest["sources"]}
    assert set(named) == {"one", "two"}
    assert sum(source["trained"] for source in named.values()) == manifest["trained"]
    assert named["two"]["fraction"] == 0.25 and named["two"]["left"] > 0
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    log = next(entry for entry in history if "loss" in entry)
    held_out = next(entry for entry in history if "eval_loss" in entry)
    for name, source in named.items():
        assert log[f"pairs/{name}"] == source["trained"]
        assert held_out[f"eval_pairs/{name}"] == source["held_out"]
    mean = sum(
        held_out[f"eval_rewards/chosen/{n}"] * s["held_out"] for n, s in named.items()
    ) / sum(s["held_out"] for s in named.values())
    assert held_out["eval_rewards/chosen"] == pytest.approx(mean, abs=1e-6)
    assert "one.jsonl + two.jsonl: " in (folder / "README.md").read_text()


def test_the_settings_of_a_mixture_are_written_so_that_they_can_be_run_again(run_config, tmp_path):
    setup = parse_arguments(run_config())
    again = tmp_path / "again.yaml"
    again.write_text(resolved_yaml(setup))
    assert parse_arguments(["--config", str(again)]).script == setup.script
    listed = parse_arguments([*run_config(), "--datasets", "a.jsonl", "b.jsonl"]).script.datasets
    assert listed == [DatasetConfig("a.jsonl"), DatasetConfig("b.jsonl")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset_name": "pairs.jsonl"}, "dataset_name .* or datasets .*, not both"),
        ({"datasets": []}, "dataset_name is missing"),
        ({"datasets": [{"path": "a", "fractoin": 1}]}, "datasets, a: .*fraction"),
        ({"datasets": [{"fraction": 1}]}, "expected a path"),
    ],
)
def test_settings_of_a_mixture_that_cannot_be_are_named(options, said, run_config):
    with pytest.raises(ConfigError, match=said):
        parse_arguments(run_config(**options))


def test_metrics_of_a_data_set_are_means_over_its_own_pairs():
    nothing = torch.zeros(3)
    outcomes = PairOutcomes(*[nothing] * len(PairOutcomes._fields))._replace(
        chosen_rewards=torch.tensor([1.0, 2.0, 6.0]), rejected_rewards=torch.tensor([0.0, 3.0, 1.0])
    )
    found = source_metrics(outcomes, ["b", "a", "b"])
    assert found == {
        "pairs/a": 1,
        "rewards/chosen/a": 2,
        "rewards/rejected/a": 3,
        "rewards/margins/a": -1,
        "rewards/accuracies/a": 0,
        "pairs/b": 2,
        "rewards/chosen/b": 3.5,
        "rewards/rejected/b": 0.5,
        "rewards/margins/b": 3,
        "rewards/accuracies/b": 1,
    }
    assert all(math.isfinite(value) for value in found.values())


def test_a_log_names_the_data_sets_of_the_pairs_that_it_speaks_of(apo_trainer):
    sources = ["a", "a", "b", "c", "b", "a"]
    rows = [r | {"dataset_source": s} for r, s in zip(make_rows(6), sources, strict=True)]
    trainer = apo_trainer(data=Dataset.from_list(rows))
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in (4, 1, 2)])
    trainer.compute_loss(trainer.model, batch)
    logs = {}
    trainer.log(logs)
    assert {k: v for k, v in logs.items() if k.startswith("pairs/")} == {"pairs/a": 1, "pairs/b": 2}
