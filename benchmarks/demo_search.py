"""Train the demo with one setting and look at its answers to development prompts.

    clair-apo demo                                  (makes runs/demo/pairs.jsonl)
    python benchmarks/demo_search.py NAME [training options, such as --beta 0.05]

The pairs that the demo holds out are left out altogether: `--dev` of the others are the development
split, the rest train. The trained model answers the development prompts greedily; one line with
settings and figures is added to `runs/demo_search/results.jsonl`, the answers stand beside it.
Rows of every setting that was tried are how the demo's settings were chosen (docs/experiments.md).
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from clair_apo.apo.arguments import parse_arguments
from clair_apo.apo.data import load_pairs
from clair_apo.apo.train import TrainingResult, train
from clair_apo.config import read_yaml
from clair_apo.demo.recording import data_file
from clair_apo.files import read_jsonl, write_jsonl
from clair_apo.llm import CachedChat, ChatRequest, Completion, Dialogue, ModelSpec, RequestStore
from clair_apo.records import PreferencePair
from clair_apo.run_folder import is_held_out
from clair_apo.text.checks import load_checks, passed
from clair_apo.text.repetition import copied, has_repeated_sentence, repetition

CONFIG = Path(__file__).parents[1] / "configs" / "apo" / "demo.yaml"


def figures(pairs: Sequence[PreferencePair], answers: Sequence[Completion]) -> dict[str, float]:
    """Means over answers: shares from 0 to 1, lengths in characters."""
    checks = load_checks(data_file("house_rules.yaml"))
    rows = []
    for pair, answer in zip(pairs, answers, strict=True):
        prompt = "\n".join(turn.content for turn in pair.prompt)
        rows.append(
            {
                "ended": answer.finish_reason == "stop",
                "repeats": has_repeated_sentence(answer.text),
                "rep_3": repetition(answer.text, 3),
                "length": len(answer.text),
                "copied_4": copied(answer.text, prompt, 4),
                **passed(checks, pair.prompt[-1].content, answer.text),
            }
        )
    return {name: round(statistics.fmean(row[name] for row in rows), 4) for name in rows[0]}


def ask(model: str, pairs: Sequence[PreferencePair], max_tokens: int) -> list[Completion]:
    """Greedy answers of a model in this process, in the order of the pairs."""
    with RequestStore(":memory:") as store:
        chat = CachedChat(ModelSpec(model=model, max_tokens=max_tokens, temperature=0.0), store)
        return list(chat.converse(_answer(chat.request(pair.prompt)) for pair in pairs))


def _answer(request: ChatRequest) -> Dialogue[Completion]:
    (answer,) = yield (request,)
    assert answer.completion is not None, answer.failure
    return answer.completion


def one_run(pairs: Path, share: float, folder: Path, options: Sequence[str]) -> TrainingResult:
    """Train on the pairs of a file, without those of the development split."""
    return train(
        parse_arguments(
            [
                *("--config", str(CONFIG), "--dataset_name", str(pairs)),
                *("--held_out", str(share), "--output_dir", str(folder), *options),
            ]
        )
    )


def main() -> None:
    """Train, ask, measure, and add a line to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of this setting")
    parser.add_argument("--pairs", type=Path, default=Path("runs/demo/pairs.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo_search"))
    parser.add_argument("--dev", type=float, default=0.25, help="share of the training prompts")
    parser.add_argument("--max_tokens", type=int, default=192)
    args, options = parser.parse_known_args()
    held_out = read_yaml(CONFIG)["held_out"]
    share = held_out + (1 - held_out) * args.dev
    args.out.mkdir(parents=True, exist_ok=True)
    rest = [p for p in read_jsonl(args.pairs, PreferencePair) if not is_held_out(p.id, held_out)]
    write_jsonl(args.out / "pairs.jsonl", rest)
    dev = [pair for pair in rest if is_held_out(pair.id, share)]
    assert dev and load_pairs(str(args.out / "pairs.jsonl"))

    started = time.perf_counter()
    checkpoint = args.out / args.name
    result = one_run(args.out / "pairs.jsonl", share, checkpoint, options)
    trained = time.perf_counter()
    answers = ask(str(checkpoint), dev, args.max_tokens)
    row = {
        "name": args.name,
        "options": options,
        "n": len(dev),
        "trained": result.trained,
        "steps": result.steps,
        "seconds": round(trained - started),
        "chosen": result.rewards and round(result.rewards.chosen.mean, 2),
        "rejected": result.rewards and round(result.rewards.rejected.mean, 2),
        **figures(dev, answers),
    }
    with (args.out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    write_jsonl(args.out / f"{args.name}.answers.jsonl", answers)
    shutil.rmtree(checkpoint)
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
