"""The claims tested where code can check the truth: a house style, five data sets, four objectives.

    python benchmarks/controlled_experiment.py             (hours; run again to go on)
    python benchmarks/controlled_experiment.py --small     (ten minutes)
    python benchmarks/controlled_experiment.py --recorded --only clair.apo_zero.beta0.02.seed0
                                                           (trains this cell, on our pairs)
    python benchmarks/controlled_experiment.py --seeds 0   (more seeds can follow)
    python benchmarks/controlled_experiment.py --recorded  (the tables of our run; trains nothing)

The embedded model answers prompts, and a program revises its answers into the house style. Beside
these pairs (`clair`, and `chain` of its single edits) stand three data sets over the same prompts:
`stronger` (chosen by another author who follows the style), `judged` (the best and the worst of
four samples, by the checks) and `weakened` (both sides worse than the model's own answers).
Several processes, also of several machines with one disk, may work in one folder.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from controlled.figure import draw
from controlled.files import FULL, MODEL, SMALL, WEAKENED, write_files  # by the line above
from controlled.house_style import judge, revise, weakened
from controlled.other_writer import OtherWriter
from controlled.recorded import pack, unpack

from clair_apo.clair import GenerateConfig, generate
from clair_apo.console import print_result
from clair_apo.experiment import ExperimentConfig, ExperimentRecord, run_experiment
from clair_apo.experiment.plan import ExperimentPlan
from clair_apo.experiment.table import experiment_table
from clair_apo.files import atomic_writer
from clair_apo.llm import FunctionChat
from clair_apo.report import write_experiment_page

PROGRAM = FunctionChat(revise)
RECORDED = Path(__file__).parent / "controlled" / "recorded.tar.xz"
"""What our run measured."""


def write_weakened(folder: Path) -> None:
    """Write the pairs whose two sides are both worse than the model's own answer."""
    run = folder / "run" / "data" / "clair" / "run"
    options = ["--config", str(folder / "clair.yaml"), "--run_dir", str(run)]
    store = ["--store", str(folder / "run" / "requests.sqlite")]
    generate(GenerateConfig.from_command_line([*options, *store]), reviser_model=PROGRAM)
    with atomic_writer(folder / WEAKENED) as file:
        for pair in _weakened_pairs(run / "pairs.jsonl"):
            file.write(json.dumps(pair, ensure_ascii=False) + "\n")


def _weakened_pairs(pairs: Path) -> Iterator[dict[str, Any]]:
    for line in pairs.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        little, further = weakened(pair["rejected"][-1]["content"])
        yield {
            "prompt": pair["prompt"],
            "chosen": [{"role": "assistant", "content": little}],
            "rejected": [{"role": "assistant", "content": further}],
        }


def run(config: ExperimentConfig, folder: Path) -> ExperimentRecord:
    """Run the experiment with its programs."""
    if not (folder / WEAKENED).exists():
        write_weakened(folder)
    return run_experiment(
        config,
        functions={
            "clair": {"reviser_model": PROGRAM},
            "chain": {"reviser_model": PROGRAM},
            "stronger": {"reviser_model": OtherWriter(MODEL)},
        },
        judge_model=FunctionChat(judge),
    )


def main() -> None:
    """Write the files, run the experiment, and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=None)
    parser.add_argument("--recorded", action="store_true", help="begin with what our run measured")
    parser.add_argument("--pack", type=Path, default=None, help="write what was measured here")
    args = parser.parse_args()
    folder = args.folder or Path("runs") / ("controlled_small" if args.small else "controlled")
    if args.pack:
        return pack(folder, args.pack)
    if args.recorded:
        unpack(RECORDED, folder, without=args.only)
    size = SMALL if args.small else FULL
    if args.seeds:
        size = size._replace(seeds=tuple(args.seeds))
    path = write_files(folder, size)
    config = ExperimentConfig.from_command_line(["--config", str(path)])
    ExperimentPlan(config)  # what is wrong is said before anything is asked
    if args.only:
        config = config.model_copy(update={"only": tuple(args.only)})
    record = run(config, folder)
    print_result(experiment_table(record))
    if record.comparisons:
        draw(record, folder / "figure.png")
    print_result(f"page: {write_experiment_page(config.run_dir)}")


if __name__ == "__main__":
    main()
