"""Rounds of a tiny model whose answers a function revises."""

from pathlib import Path
from typing import Any

import yaml

from clair_apo.llm import ChatRequest, FunctionChat
from clair_apo.rounds import RoundsConfig
from tests.helpers.clair_runs import full_reply, write_rows
from tests.helpers.tiny_chat import save_tiny_chat

CHECKS = "checks:\n- {name: begins, matches: '\\Aw1 '}\n"


def revised(request: ChatRequest) -> str:
    """A revision that begins with the word w1."""
    answer = request.messages[-1].content.partition("<answer>\n")[2].partition("\n</answer>")[0]
    return full_reply(f"w1 {answer}")


class CountingReviser(FunctionChat):
    """The same, which counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        super().__init__(self._revise)

    def _revise(self, request: ChatRequest) -> str:
        self.asked += 1
        return revised(request)


def rounds_config(folder: Path, *, train: dict[str, Any] | None = None, **changes: Any):
    """A config of rounds with the files of its commands, all in `folder`."""
    model = save_tiny_chat(folder / "tiny")
    write_rows(folder / "prompts.jsonl", [{"prompt": f"w{n} w{n + 1}"} for n in range(12)])
    write_rows(folder / "unseen.jsonl", [{"prompt": f"w{n} w{n + 2}"} for n in range(12)])
    (folder / "checks.yaml").write_text(CHECKS)
    target = {"model": str(model), "max_tokens": 40, "temperature": 1.0}
    files: dict[str, dict[str, Any]] = {
        "generate": {
            "run_dir": "unused",
            "prompts": {"path": str(folder / "prompts.jsonl")},
            "target": target,
            "reviser": {"model": "begins-with-w1"},
            "revision": {"format": "full"},
            "output": {"test_size": 0},
        },
        "train": {
            "dataset_name": "unused",
            "model_name_or_path": "unused",
            "held_out": 0,
            "use_cpu": True,
            "bf16": False,
            "learning_rate": 0.01,
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "save_strategy": "steps",
            "save_steps": 2,
            "save_only_model": False,
            "report_to": "none",
            "watch_prompts": 0,
        }
        | (train or {}),
        "evaluate": {
            "run_dir": "unused",
            "models": {"trained": target | {"temperature": 0.0}},
            "prompts": {"path": str(folder / "unseen.jsonl")},
            "suites": [{"suite": "checks", "checks": str(folder / "checks.yaml")}],
        },
    }
    for name, values in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    paths = {name: folder / f"{name}.yaml" for name in files}
    return RoundsConfig(**{"run_dir": folder / "rounds", "rounds": 2, **paths, **changes})
