"""The demo's training and evaluation over several seeds: what its table says each time.

    python benchmarks/demo_seeds.py               (options: --seeds --out)

A seed changes the order of the pairs. Each run is generated, trained and evaluated in a folder of
its own, as `clair-apo demo` does it; a row of means is printed, with what the demo says in words.
"""

import argparse
from pathlib import Path

from clair_apo.clair import generate
from clair_apo.console import print_result
from clair_apo.demo import demo_config, fill_store
from clair_apo.demo.run import BASE, TRAINED, evaluation_config, held_out_prompts, train_on
from clair_apo.demo.verdict import means, verdict
from clair_apo.evaluation import evaluate
from clair_apo.evaluation.tables import evaluation_table
from clair_apo.llm import RequestStore


def one_seed(seed: int, out: Path) -> None:
    """Generate, train, evaluate, and print what came of it."""
    config = demo_config(["--run_dir", str(out / f"seed{seed}" / "run")])
    with RequestStore(config.store_path) as store:
        fill_store(store)
    generate(config)
    checkpoint = train_on(config.run_dir, ["--seed", str(seed)])
    found = evaluate(evaluation_config(config, checkpoint, held_out_prompts(config)))
    print_result(evaluation_table(found.content))
    for model in (BASE, TRAINED):
        shown = ", ".join(f"{k} {v:.3f}" for k, v in means(found.content, model).items())
        print_result(f"seed {seed}, {model}: {shown}")
    print_result(f"seed {seed}: {verdict(found.content, TRAINED, BASE)}")


def main() -> None:
    """Run every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/demo_seeds"))
    args = parser.parse_args()
    for seed in args.seeds:
        one_seed(seed, args.out)


if __name__ == "__main__":
    main()
