"""Where both held-out sides go under each anchor, over several seeds, on the demo's pairs.

    clair-apo demo                                (makes runs/demo/pairs.jsonl)
    python benchmarks/anchors_over_seeds.py       (6 runs; options: --objectives --seeds --out)

Each run is the demo's training with one objective alone, without the sft term, and another order
of the pairs. It prints a row a run, with the 95 % interval over held-out pairs, and writes the rows
to a JSON file.
"""

import argparse
import tempfile
from pathlib import Path

from clair_apo.apo.arguments import parse_arguments
from clair_apo.apo.train import TrainingResult, train
from clair_apo.run_folder import write_json

CONFIG = Path(__file__).parents[1] / "configs" / "apo" / "demo.yaml"


def one_run(pairs: Path, objective: str, seed: int) -> TrainingResult:
    """Train once in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            *("--config", str(CONFIG), "--dataset_name", str(pairs), "--output_dir", folder),
            *("--loss_type", objective, "--loss_weights", "1.0", "--seed", str(seed)),
        ]
        return train(parse_arguments(options))


def main() -> None:
    """Run every objective with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, default=Path("runs/demo/pairs.jsonl"))
    parser.add_argument("--objectives", nargs="+", default=["apo_zero", "apo_down"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/anchors_over_seeds.json"))
    args = parser.parse_args()
    rows = []
    print("| objective | seed | chosen | rejected | margin |\n|---|---|---|---|---|")
    for objective in args.objectives:
        for seed in args.seeds:
            rewards = one_run(args.pairs, objective, seed).rewards
            assert rewards is not None, "no pair was held out"
            row = [objective, seed, rewards.chosen, rewards.rejected, rewards.margin]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
            rows.append({"objective": objective, "seed": seed, **rewards.model_dump()})
            write_json(args.out, rows)


if __name__ == "__main__":
    main()
