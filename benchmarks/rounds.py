"""Two rounds of the embedded model, with a program as the reviser: does the second one add to it?

    python benchmarks/rounds.py                     (120 prompts to train on, 60 others to look at)
    python benchmarks/rounds.py --prompts 40 --held_out 20

The program is a house style that code can check: the answer's lists become sentences, and a last
line says `Next step: ...`. Prompts are the demo's. Run again to go on; `runs/rounds_benchmark` has
the page and all figures.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import yaml

from clair_apo.console import print_result
from clair_apo.demo.recording import data_file
from clair_apo.llm import ChatRequest, FunctionChat
from clair_apo.report import write_rounds_page
from clair_apo.rounds import RoundsConfig, run_rounds
from clair_apo.rounds.table import figures_of, rounds_table

_ANSWER = re.compile(r"<answer>\n(.*)\n</answer>", re.DOTALL)
_MARK = re.compile(r"(?m)^\s*(?:\d+[.)]|[-*+])\s+")
LAST = "Next step: try this today."


def in_house_style(request: ChatRequest) -> str:
    """The minimal revision of the answer in a request that follows the house style."""
    found = _ANSWER.search(request.messages[-1].content)
    assert found is not None
    answer = _MARK.sub("", found[1]).rstrip()
    if not answer.endswith(LAST):
        answer = f"{answer}\n\n{LAST}"
    return f"<reasoning>\nhouse style\n</reasoning>\n<revision>\n{answer}\n</revision>"


def write_configs(folder: Path, prompts: int, held_out: int) -> RoundsConfig:
    """The config of the rounds, with the files that it names."""
    rows = data_file("prompts.jsonl").read_text(encoding="utf-8").splitlines()
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[held_out:][:prompts]), ("unseen", rows[:held_out])):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    checks = [
        {"name": "ends_with_next_step", "matches": r"\nNext step: \S[^\n]*\Z"},
        {"name": "no_list", "no_list": True},
    ]
    (folder / "checks.yaml").write_text(yaml.safe_dump({"checks": checks}))
    asked = {"model": "smollm2-135m", "max_tokens": 192, "temperature": 0.7}
    files: dict[str, dict[str, Any]] = {
        "generate": {
            "prompts": {"path": str(folder / "train.jsonl")},
            "target": asked,
            "reviser": {"model": "house-style"},
            "revision": {"format": "full"},
            "output": {"test_size": 0},
        },
        "train": {
            "dataset_name": "of each round",
            "model_name_or_path": "of each round",
            "held_out": 0.0,
            "loss_type": ["apo_zero", "sft"],
            "loss_weights": [1.0, 1.0],
            "beta": 0.02,
            "learning_rate": 2e-5,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 4,
            "max_length": 512,
            "bf16": False,
            "use_cpu": True,
            "save_steps": 10,
            "save_total_limit": 1,
            "logging_steps": 5,
            "report_to": "none",
            "watch_prompts": 0,
            "seed": 0,
        },
        "evaluate": {
            "models": {"round_1": asked | {"temperature": 0.0}},
            "prompts": {"path": str(folder / "unseen.jsonl")},
            "suites": [
                {"suite": "checks", "checks": str(folder / "checks.yaml")},
                {"suite": "health", "drift": False},
            ],
        },
    }
    for name, values in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    named = {name: folder / f"{name}.yaml" for name in files}
    return RoundsConfig(run_dir=folder / "rounds", rounds=2, **named)


def main() -> None:
    """Make the rounds, and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--held_out", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("runs/rounds_benchmark"))
    args = parser.parse_args()
    config = write_configs(args.folder, args.prompts, args.held_out)
    record = run_rounds(config, reviser_model=FunctionChat(in_house_style))
    print_result(rounds_table(record))
    print_result(json.dumps(figures_of(record), indent=1))
    print_result(f"page: {write_rounds_page(config.run_dir)}")


if __name__ == "__main__":
    main()
