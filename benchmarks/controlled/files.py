"""Writes the configs and the data of the controlled experiment into a folder."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from controlled import knowledge, prompts

HERE = Path(__file__).parent
MODEL = "smollm2-135m"
LIMIT = 256
"""Tokens of an answer at most."""
SAMPLES = 4
"""Of `judged`: by the checks, two are often alike."""
BETAS = [0.02, 0.1, 0.5]
LOSSES = {"sft": "sft", "dpo": "sigmoid", "apo_zero": "apo_zero", "apo_down": "apo_down"}
WEAKENED = "weakened_pairs.jsonl"
STYLE, HABITS_FILE = CHECKS = "house_style.yaml", "habits.yaml"

RULES = ("last_line", "no_list", "no_filler", "british_spelling", "six_sentences")
HABITS = ("no_exclamation", "no_we", "no_question", "no_bold")
FIGURES = (
    "checks.share",
    "checks.all",
    *(f"checks.{rule}" for rule in RULES),
    *(f"habits.{habit}" for habit in HABITS),
    "health.ended",
    "health.characters",
    "-health.rep_3",
    "-health.repeated_sentence",
    "knowledge.accuracy",
    "-neutral.kl_k1",
)


class Size(NamedTuple):
    """How much of everything."""

    prompts: int = 600
    """Prompts of the data sets; those with a pair in every data set are trained on."""
    development: int = 60
    test: int = 200
    neutral: int = 30
    questions: int = 104
    steps: int = 75
    """Of each training, four pairs a step."""
    seeds: tuple[int, ...] = (0, 1, 2)
    data: tuple[str, ...] = ("clair", "chain", "stronger", "judged", "weakened")
    objectives: tuple[str, ...] = tuple(LOSSES)
    betas: tuple[float, ...] = tuple(BETAS)
    beta: float | None = None
    """Takes the place of the choice among `betas`."""


FULL = Size()
SMALL = Size(
    prompts=60,
    development=0,
    test=40,
    neutral=4,
    questions=8,
    steps=12,
    seeds=(0,),
    data=("clair", "weakened"),
    objectives=("apo_zero", "apo_down"),
    beta=0.1,
)
"""What runs in ten minutes."""


def write_files(folder: Path, size: Size) -> Path:
    """Write everything that the experiment reads; returns its config."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Sequence[Mapping[str, Any]]] = {
        "train": _some(prompts.training(), size.prompts),
        "development": _some(prompts.development(), size.development),
        "test": _some(prompts.test(), size.test),
        "neutral": _some(prompts.neutral(), size.neutral),
        "knowledge": _some(knowledge.questions(), size.questions),
    }
    for name, found in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for name in CHECKS:
        shutil.copy(HERE / name, folder)
    for name, config in _configs(folder, size).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / "experiment.yaml"


def _some(rows: Sequence[Mapping[str, Any]], number: int) -> Sequence[Mapping[str, Any]]:
    """So many of the rows, evenly spread: they stand in an order of kinds."""
    if number >= len(rows):
        return rows
    return [rows[place * len(rows) // number] for place in range(number)]


def _configs(folder: Path, size: Size) -> dict[str, dict[str, Any]]:
    return {
        **_data_configs(folder),
        "training": _training(size),
        "on_development": _evaluation(folder / "development.jsonl", [_checks(folder)]),
        "on_test": _evaluation(
            folder / "test.jsonl",
            [
                _checks(folder),
                {"suite": "checks", "name": "habits", "checks": str(folder / HABITS_FILE)},
                {"suite": "health", "drift": False},
                {
                    "suite": "multiple_choice",
                    "name": "knowledge",
                    "data": str(folder / "knowledge.jsonl"),
                },
            ],
        ),
        "on_neutral": _evaluation(
            folder / "neutral.jsonl", [{"suite": "health", "name": "neutral"}], temperature=1.0
        ),
        "advise": {
            "model": {"model": MODEL, "max_tokens": LIMIT, "temperature": 0.7},
            "judge": {"model": "house-style"},
            "max_pairs": 100,
            "controls": 0,
        },
        "experiment": _experiment(folder, size),
    }


def _data_configs(folder: Path) -> dict[str, dict[str, Any]]:
    made = {
        "prompts": {"path": str(folder / "train.jsonl")},
        "target": {"model": MODEL, "max_tokens": LIMIT, "temperature": 0.7},
        "output": {"test_size": 0},
    }
    by_program = made | {
        "reviser": {"model": "house-style"},
        "revision": {"format": "segments"},
    }
    return {
        "clair": by_program,
        "chain": by_program | {"pairs": "chain"},
        "stronger": made
        | {
            "recipe": "stronger_preferred",
            "reviser": {
                "model": "other-author",
                "max_tokens": 2 * LIMIT,  # of which it writes half
                "temperature": 0.7,
            },
        },
        "judged": made
        | {
            "recipe": "on_policy_judge",
            "samples": SAMPLES,
            "scorer": {"checks": str(folder / STYLE)},
        },
    }


def _training(size: Size) -> dict[str, Any]:
    return {
        "model_name_or_path": MODEL,
        "held_out": 0.1,
        "learning_rate": 2e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "max_steps": size.steps,
        "per_device_train_batch_size": 4,
        "max_length": 384,
        "bf16": False,
        "use_cpu": True,
        "save_steps": 25,
        "save_total_limit": 1,
        "logging_steps": 5,
        "watch_prompts": 0,
        "report_to": "none",
    }


def _checks(folder: Path) -> dict[str, Any]:
    return {"suite": "checks", "checks": str(folder / STYLE)}


def _evaluation(
    path: Path, suites: Sequence[Mapping[str, Any]], temperature: float = 0.0
) -> dict[str, Any]:
    return {
        "models": {"cell": {"model": MODEL, "max_tokens": LIMIT, "temperature": temperature}},
        "prompts": {"path": str(path)},
        "suites": [dict(suite) for suite in suites],
    }


def _experiment(folder: Path, size: Size) -> dict[str, Any]:
    objectives = {name: {"loss_type": LOSSES[name]} for name in size.objectives}
    betas = list(size.betas) if size.beta is None else size.beta
    for name in set(size.objectives) - {"sft"}:
        objectives[name]["beta"] = betas
    tuned = size.beta is None
    return {
        "run_dir": str(folder / "run"),
        "data": {
            name: {"pairs": str(folder / WEAKENED)}
            if name == "weakened"
            else {"generate": str(folder / f"{name}.yaml")}
            for name in size.data
        },
        "train": str(folder / "training.yaml"),
        "objectives": objectives,
        "seeds": list(size.seeds),
        **({"development": str(folder / "on_development.yaml")} if tuned else {}),
        **({"choose": {"figure": "checks.share", "data": "clair"}} if tuned else {}),
        "evaluate": [str(folder / "on_test.yaml"), str(folder / "on_neutral.yaml")],
        "figures": list(FIGURES),
        "baseline": f"clair/{'dpo' if 'dpo' in size.objectives else size.objectives[0]}",
        "advise": str(folder / "advise.yaml"),
        "keep_weights": False,
    }
