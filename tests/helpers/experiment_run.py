"""An experiment with a tiny model: two data sets, of which a function revises one."""

from pathlib import Path
from typing import Any

import yaml

from clair_apo.experiment import ExperimentConfig
from clair_apo.llm import FunctionChat
from tests.helpers.clair_runs import write_rows
from tests.helpers.rounds_run import CHECKS, revised
from tests.helpers.tiny_chat import save_tiny_chat


def experiment_files(folder: Path, *, train: dict[str, Any] | None = None) -> dict[str, Path]:
    """Write the configs of the commands, the model and the prompts; returns the configs' paths."""
    model = save_tiny_chat(folder / "tiny")
    for name, step in (("prompts", 1), ("development", 2), ("unseen", 3)):
        write_rows(folder / f"{name}.jsonl", [{"prompt": f"w{n} w{n + step}"} for n in range(12)])
    (folder / "checks.yaml").write_text(CHECKS)
    target = {"model": str(model), "max_tokens": 40, "temperature": 1.0}
    made = {
        "prompts": {"path": str(folder / "prompts.jsonl")},
        "target": target,
        "output": {"test_size": 0},
    }
    suites = [
        {"suite": "checks", "checks": str(folder / "checks.yaml")},
        {"suite": "health", "drift": False},
    ]
    asked = {"cell": {**target, "temperature": 0.0}}
    files: dict[str, dict[str, Any]] = {
        "clair": made | {"reviser": {"model": "begins"}, "revision": {"format": "full"}},
        "two_samples": made
        | {
            "recipe": "on_policy_judge",
            "samples": 4,
            "scorer": {"checks": str(folder / "lengths.yaml")},
        },
        "train": {
            "dataset_name": "of each cell",
            "model_name_or_path": str(model),
            "held_out": 0.3,
            "use_cpu": True,
            "bf16": False,
            "learning_rate": 0.01,
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "save_strategy": "steps",
            "save_steps": 2,
            "logging_steps": 2,
            "report_to": "none",
            "watch_prompts": 0,
            "max_length": 128,
        }
        | (train or {}),
        "development": {
            "models": asked,
            "prompts": {"path": str(folder / "development.jsonl")},
            "suites": suites,
        },
        "test": {
            "models": asked,
            "prompts": {"path": str(folder / "unseen.jsonl")},
            "suites": suites,
        },
    }
    limits = [{"name": f"below_{n}", "max_words": n} for n in (2, 4, 6, 8, 12, 16, 20, 30)]
    (folder / "lengths.yaml").write_text(yaml.safe_dump({"checks": limits}))
    for name, values in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return {name: folder / f"{name}.yaml" for name in files}


def experiment_config(folder: Path, files: dict[str, Path], **changes: Any) -> ExperimentConfig:
    """The config of the experiment: clair and two samples, two objectives, one seed."""
    values: dict[str, Any] = {
        "run_dir": folder / "experiment",
        "data": {name: {"generate": files[name]} for name in ("clair", "two_samples")},
        "train": files["train"],
        "objectives": {"dpo": {"loss_type": "sigmoid"}, "zero": {"loss_type": "apo_zero"}},
        "evaluate": files["test"],
        "figures": ["checks.begins", "health.characters"],
        "baseline": "clair/dpo",
    }
    return ExperimentConfig(**(values | changes))


FUNCTIONS = {"clair": {"reviser_model": FunctionChat(revised)}}
