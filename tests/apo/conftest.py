"""Fixtures for training on tiny random models, offline."""

import copy
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gc
import json
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from clair_apo.apo.config import APOConfig
from clair_apo.apo.trainer import APOTrainer
from tests.helpers.tiny_apo import make_model, make_rows, make_tokenizer

# accelerate collects garbage after every training; what importing left is none (0.8 seconds each)
gc.freeze()


@pytest.fixture(autouse=True)
def no_users_cache(tmp_path, monkeypatch):
    """What a test computes stays in its folder, and it meets nothing of another's."""
    monkeypatch.setattr(
        "clair_apo.apo.reference.storage.default_cache", lambda: tmp_path / "reference"
    )


@pytest.fixture(scope="session")
def shared_tokenizer():
    return make_tokenizer()


@pytest.fixture
def tokenizer(shared_tokenizer):
    """One for each test: `pad_token` of a training config changes it."""
    return copy.deepcopy(shared_tokenizer)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def pairs():
    return Dataset.from_list(make_rows(8))


@pytest.fixture
def tiny_folder(tmp_path):
    """A saved tiny model with its tokenizer, for everything that takes a name."""
    folder = tmp_path / "tiny"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def write_config(tiny_folder, tmp_path):
    """Writes pairs and a YAML that trains the tiny model on them, named after its output folder."""

    def write(name: str, pairs: int, **options) -> Path:
        data = tmp_path / "pairs.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in make_rows(pairs)))
        values = {
            "model_name_or_path": str(tiny_folder),
            "dataset_name": str(data),
            "output_dir": str(tmp_path / name),
            "reference_cache": str(tmp_path / f"cache-{name}"),
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "logging_steps": 1,
            "watch_prompts": 0,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values | options))
        return path

    return write


@pytest.fixture
def config(tmp_path):
    """An `APOConfig` for two quick steps; keywords override."""

    def make(**options) -> APOConfig:
        quick = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "gradient_checkpointing": False,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": 7,
            "watch_prompts": 0,
        }
        return APOConfig(**(quick | options))

    return make


PASSED_ON = {
    "callbacks",
    "compute_metrics",
    "data_collator",
    "eval_dataset",
    "peft_config",
    "processing_class",
    "ref_model",
}
"""Arguments of a trainer; what `apo_trainer` is given beside them is a setting."""


@pytest.fixture
def apo_trainer(config, tokenizer, pairs):
    """Makes a trainer of the tiny model on eight pairs; keywords are arguments or settings."""

    def make(model=None, data=None, *, kind=APOTrainer, args=None, **options):
        passed = {key: options.pop(key) for key in PASSED_ON & options.keys()}
        usual = {
            "model": make_model() if model is None else model,
            "args": args or config(**options),
            "train_dataset": pairs if data is None else data,
            "processing_class": tokenizer,
        }
        return kind(**(usual | passed))

    return make
