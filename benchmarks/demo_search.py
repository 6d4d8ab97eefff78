"""Train the demo with one setting and look at its answers to development prompts.

    clair-apo demo                                  (makes runs/demo/pairs.jsonl)
    python benchmarks/demo_search.py base           (figures of the recorded answers, no training)
    python benchmarks/demo_search.py NAME           (and any options of `clair-apo train`)

The prompts that the demo holds out are left out altogether: `--dev` of the others are the
development split, the pairs of the rest train. The trained model answers the development prompts
greedily, also those whose recorded answer became no pair. A line with settings and figures is added
to `runs/demo_search/results.jsonl`; the answers stand beside it. The settings of the demo were
chosen from these lines (docs/experiments.md).
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clair_apo.apo.arguments import parse_arguments
from clair_apo.apo.train import train
from clair_apo.config import read_yaml
from clair_apo.demo.recording import data_file, read_recording, recorded_prompts
from clair_apo.demo.run import demo_config, training_yaml
from clair_apo.files import read_jsonl, write_jsonl
from clair_apo.llm import CachedChat, ChatRequest, Completion, Dialogue, RequestStore
from clair_apo.records import PreferencePair, Prompt
from clair_apo.run_folder import is_held_out
from clair_apo.text.checks import load_checks, passed
from clair_apo.text.repetition import copied, has_repeated_sentence, repetition

BASE = "base"
"""The name of the run that trains nothing."""


def figures(prompts: Sequence[Prompt], answers: Sequence[Completion]) -> dict[str, float]:
    """Means over answers: shares from 0 to 1, lengths in characters."""
    checks = load_checks(data_file("house_rules.yaml"))
    rows = [
        {
            "ended": answer.finish_reason == "stop",
            "repeats": has_repeated_sentence(answer.text),
            "rep_3": repetition(answer.text, 3),
            "length": len(answer.text),
            "copied_4": copied(answer.text, "\n".join(turn.content for turn in prompt.messages), 4),
            **passed(checks, prompt.messages[-1].content, answer.text),
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return {name: round(statistics.fmean(row[name] for row in rows), 4) for name in rows[0]}


def recorded(prompts: Sequence[Prompt]) -> list[Completion]:
    """What the base answered."""
    rows = {row.prompt_id: row.response.completion for row in read_recording()}
    return [rows[prompt.id] for prompt in prompts]


def ask(model: Path, prompts: Sequence[Prompt]) -> list[Completion]:
    """The answers of a model in this process, asked as the demo asks its target."""
    spec = demo_config().target.model_copy(update={"model": str(model)})
    with RequestStore(":memory:") as store:
        chat = CachedChat(spec, store)
        return list(chat.converse(_answer(chat.request(prompt.messages)) for prompt in prompts))


def _answer(request: ChatRequest) -> Dialogue[Completion]:
    (answer,) = yield (request,)
    assert answer.completion is not None, answer.failure
    return answer.completion


def train_without(
    split: float, pairs: Path, folder: Path, options: Sequence[str]
) -> dict[str, Any]:
    """Train on pairs, with the development split held out; settings and rewards."""
    started = time.perf_counter()
    result = train(
        parse_arguments(
            [
                *("--config", str(training_yaml()), "--dataset_name", str(pairs)),
                *("--held_out", str(split), "--output_dir", str(folder), *options),
            ]
        )
    )
    rewards = result.rewards
    return {
        "trained": result.trained,
        "steps": result.steps,
        "seconds": round(time.perf_counter() - started),
        "chosen": rewards and round(rewards.chosen.mean, 2),
        "rejected": rewards and round(rewards.rejected.mean, 2),
    }


def main() -> None:
    """Train, ask, measure, and add a line to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of this setting")
    parser.add_argument("--pairs", type=Path, default=Path("runs/demo/pairs.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo_search"))
    parser.add_argument("--dev", type=float, default=0.25, help="share of the training prompts")
    args, options = parser.parse_known_args()
    held_out = read_yaml(training_yaml())["held_out"]
    split = held_out + (1 - held_out) * args.dev
    args.out.mkdir(parents=True, exist_ok=True)
    rest = [p for p in read_jsonl(args.pairs, PreferencePair) if not is_held_out(p.id, held_out)]
    path, checkpoint = args.out / f"{args.name}.pairs.jsonl", args.out / args.name
    write_jsonl(path, rest)
    prompts = [
        prompt
        for id, prompt in recorded_prompts(demo_config()).items()
        if is_held_out(id, split) and not is_held_out(id, held_out)
    ]
    trains = args.name != BASE
    trained = train_without(split, path, checkpoint, options) if trains else {}
    answers = ask(checkpoint, prompts) if trains else recorded(prompts)
    found = figures(prompts, answers)
    row = {"name": args.name, "options": options, "n": len(prompts), **trained, **found}
    with (args.out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    write_jsonl(args.out / f"{args.name}.answers.jsonl", answers)
    shutil.rmtree(checkpoint, ignore_errors=True)
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
