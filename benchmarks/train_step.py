"""A training step of `APOTrainer` beside one of TRL's `DPOTrainer`, in alternating processes.

    python benchmarks/train_step.py                      (fp32, 4 pairs a step, 5 runs of each)
    python benchmarks/train_step.py --dtype bf16
    python benchmarks/train_step.py --trl defaults       (reference on the fly, checkpointing)
    python benchmarks/train_step.py --pairs 32 --only clair_apo
    python benchmarks/train_step.py --sweep              (cost of a token, by pairs and by length,
                                                          attention aside)
    python benchmarks/train_step.py --profile            (where the time of a step goes)

The model is the embedded SmolLM2-135M, the pairs are as long as real ones (`pair_lengths.py`), all
on the CPU. Each run is a process of its own that trains two steps that do not count, in which it
takes its memory from the system, and then `--steps` that do; run N of both trainers has the same
pairs. A table gives medians over runs, with the lowest and the highest; a JSON file gets every run.

TRL runs as it comes; "helped" to what `APOTrainer` does by itself on a CPU and TRL's could do as
well: float32 products by oneDNN, memory held from step to step (`apo/forward/cpu.py`); and helped
with "labels only", where its head scores labelled positions alone, as it does by itself on CUDA.
What then is left of the ratio is the layout: prompts shared, no padding.

Utilisation is counted work over the matrix products that the same process could do in that time,
those in float32 by oneDNN: forward and backward of every real token once, prompts shared, no
recomputation, optimizer aside.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pair_lengths import PairLength, even_lengths, real_lengths, rows

TRAINERS = ("clair_apo", "trl")
OUT = Path("runs/train_step.json")
WARM_UP = 2
"""Steps that do not count."""


def options(kind: str, spec: dict[str, Any], folder: str) -> dict[str, Any]:
    """The arguments of a run; TRL's are its fastest, or its defaults with `trl_defaults`."""
    slow = kind == "trl" and spec["trl_defaults"]
    given: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": WARM_UP + spec["steps"],
        "per_device_train_batch_size": spec["pairs"],
        "loss_type": ["apo_zero"],
        "use_cpu": True,
        "bf16": spec["dtype"] == "bf16",
        "gradient_checkpointing": slow,
        "precompute_ref_log_probs": not slow,
        "precompute_ref_batch_size": 1,
        "max_length": None,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    if kind == "clair_apo" and spec["max_tokens"]:
        given["max_tokens_per_batch"] = spec["max_tokens"]
    return given


def work(lengths: list[PairLength], model: Any) -> float:
    """Operations of one step: 2 for each weight and token, 3 times for forward and backward."""
    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for n, p in model.named_parameters() if ".layers." in n and p.dim() == 2)
    wide = model.config.num_hidden_layers * model.config.hidden_size
    total = 0.0
    for prompt, chosen, rejected in lengths:
        total += 2 * body * (prompt + chosen + rejected) + 2 * head * (chosen + rejected)
        seen = prompt**2 / 2 + sum(n * (prompt + n / 2) for n in (chosen, rejected))
        total += 4 * wide * seen  # scores, and their weighted sum of values
    return 3 * total


def matmul_rate(dtype: str) -> float:
    """Operations a second of products as in the model's MLP, for two seconds."""
    import torch

    from clair_apo.float32_products import fast_float32_products

    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    left, right = torch.randn(2048, 576).to(kind), torch.randn(576, 1536).to(kind)
    count, start = 0, time.perf_counter()
    with fast_float32_products(left.device):
        while time.perf_counter() - start < 2:
            left @ right
            count += 1
    return count * 2 * 2048 * 576 * 1536 / (time.perf_counter() - start)


def lengths_of(spec: dict[str, Any]) -> list[PairLength]:
    """As long as real ones, or all of one length."""
    if spec["tokens"]:
        return even_lengths(spec["pairs"], spec["tokens"])
    return real_lengths(spec["pairs"], spec["seed"])


def run_here(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Train in this process, and say what it took."""
    import torch
    from datasets import Dataset
    from torch.profiler import ProfilerActivity, profile
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from clair_apo.apo import APOConfig, APOTrainer
    from clair_apo.apo.forward.cpu import memory_held
    from clair_apo.float32_products import fast_float32_products
    from clair_apo.models import find_model

    class Clock(TrainerCallback):
        """Seconds of each step, with and without the optimizer; a profile of those that count."""

        steps: list[float]
        passes: list[float]
        profiler = profile(activities=[ProfilerActivity.CPU]) if spec["profile"] else None

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.steps, self.passes = [], []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if self.profiler and len(self.steps) == WARM_UP:
                self.profiler.start()
            self.start = time.perf_counter()

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            self.passes.append(time.perf_counter() - self.start)

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.steps.append(time.perf_counter() - self.start)

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            if self.profiler:
                self.profiler.stop()

    folder, clock, lengths = find_model("smollm2-135m").location, Clock(), lengths_of(spec)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer_kind, config_kind = (
        (APOTrainer, APOConfig) if kind == "clair_apo" else (DPOTrainer, DPOConfig)
    )
    with tempfile.TemporaryDirectory() as output, ExitStack() as help_given:
        if spec["helped"]:
            help_given.enter_context(fast_float32_products(torch.device("cpu")))
            help_given.enter_context(memory_held(torch.device("cpu")))
        if spec["labels_only"]:
            help_given.enter_context(labels_scored_only())
        trainer = trainer_kind(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            args=config_kind(**options(kind, spec, output)),
            train_dataset=Dataset.from_list(rows(lengths, tokenizer, spec["seed"])),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        rates = [matmul_rate(spec["dtype"])]
        trainer.train()
        rates.append(matmul_rate(spec["dtype"]))
    passes = statistics.median(clock.passes[WARM_UP:])
    return {
        "step_seconds": statistics.median(clock.steps[WARM_UP:]),
        "pass_seconds": passes,
        "first_loss": trainer.state.log_history[0].get("loss", float("nan")),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "real_tokens": sum(length.tree for length in lengths),
        "matmul_gflops": statistics.mean(rates) / 1e9,
        "utilisation": work(lengths, trainer.model) / passes / statistics.mean(rates),
        "seconds_by_kind": by_kind(clock.profiler, spec["steps"]) if clock.profiler else None,
    }


def labels_scored_only() -> Any:
    """TRL's head leaves out positions without a label, as it does where it has its kernel."""
    from trl.trainer import utils

    # The head's own product asks a copy of this function, and stays with its path for CPUs.
    return patch.object(utils, "_use_triton", lambda device: True)


def by_kind(profiler: Any, steps: int) -> dict[str, float]:
    """Seconds of one step by kind of operator, the optimizer's included."""
    groups = {
        "attention": ("ttention", "bmm", "_softmax"),  # of ours, batched products are all
        "matrix products": ("mm",),
        "optimizer": ("adam", "Optimizer"),
        "exponentials": ("exp", "silu", "log", "sigmoid"),
        "products and sums": ("mul", "add", "pow", "sum", "mean", "sub", "div", "neg"),
        "copies and casts": ("copy_", "cat", "fill_", "zero_", "index", "embedding"),
    }
    seconds = dict.fromkeys([*groups, "everything else"], 0.0)
    for event in profiler.key_averages():
        named = (name for name, parts in groups.items() if any(part in event.key for part in parts))
        seconds[next(named, "everything else")] += event.self_cpu_time_total / 1e6 / steps
    return seconds


def run_apart(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Train in a process of its own; one that was killed is told by its signal."""
    command = [sys.executable, __file__, "--worker", kind, json.dumps(spec)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if done.returncode < 0:
        return {"killed_by_signal": -done.returncode}
    if done.returncode:
        raise SystemExit(f"{kind} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def alternate(specs: dict[str, dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """Every run of every setting in turn, each with the pairs of its number."""
    found = []
    for seed in range(runs):
        for name, spec in specs.items():
            kind = "clair_apo" if name.startswith("clair_apo") else "trl"
            result = run_apart(kind, spec | {"seed": seed})
            found.append({"setting": name, "seed": seed, **result})
            print(json.dumps(found[-1]), flush=True)
    return found


def report(found: list[dict[str, Any]]) -> None:
    """Medians over runs, with the lowest and the highest."""
    columns = ("step_seconds", "peak_gib", "utilisation", "matmul_gflops", "real_tokens")
    print("\n| setting | n | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 2) + "|")
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for run in found:
        by_setting.setdefault(run["setting"], []).append(run)
    whole = {name: [r for r in runs if "step_seconds" in r] for name, runs in by_setting.items()}
    for name, runs in whole.items():
        killed = len(by_setting[name]) - len(runs)
        cells = [_spread([run[column] for run in runs]) for column in columns] if runs else []
        print(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
        if killed:
            print(f"{name}: {killed} of {len(by_setting[name])} runs were killed")
    ours = {run["seed"]: run for run in whole.pop("clair_apo", [])}
    for name, runs in whole.items():
        both = [(run, ours[run["seed"]]) for run in runs if run["seed"] in ours]
        for column in ("step_seconds", "peak_gib") if both else ():
            ratios = [theirs[column] / own[column] for theirs, own in both]
            print(f"{name} / clair_apo, {column}, same pairs: {_spread(ratios)} (n={len(ratios)})")


def report_kinds(found: list[dict[str, Any]]) -> None:
    """Where the time of a step goes: medians over runs, of the sum of all kinds."""
    for name in found[0]["seconds_by_kind"]:
        shares = [
            run["seconds_by_kind"][name] / sum(run["seconds_by_kind"].values()) for run in found
        ]
        print(f"{name}: {_spread([100 * share for share in shares])} %")
    print(f"utilisation: {_spread([run['utilisation'] for run in found])}")
    bounds = _spread([_utilisation_of_products(run) for run in found])
    print(f"utilisation if all but matrix products and attention took no time: {bounds}")


def _utilisation_of_products(run: dict[str, Any]) -> float:
    kinds: dict[str, float] = run["seconds_by_kind"]
    passes = sum(kinds.values()) - kinds["optimizer"]
    share = (kinds["matrix products"] + kinds["attention"]) / passes
    return float(run["utilisation"] / share)


def report_sweep(found: list[dict[str, Any]]) -> None:
    """Cost of a real token without attention: in time, and in what the machine could multiply.

    The second one is fair to settings that ran while the machine was slow.
    """
    for axis in ("pairs", "tokens a pair"):
        costs = {}
        for name in dict.fromkeys(run["setting"] for run in found if run["setting"].endswith(axis)):
            runs = [run for run in found if run["setting"] == name]
            cost = [
                (run["pass_seconds"] - run["seconds_by_kind"]["attention"]) / run["real_tokens"]
                for run in runs
            ]
            mflop = [
                1e3 * each * run["matmul_gflops"] for each, run in zip(cost, runs, strict=True)
            ]
            costs[name] = statistics.median(mflop)
            print(
                f"{name}: {_spread([1e3 * each for each in cost])} ms a real token, "
                f"the time of {_spread(mflop)} MFLOP (n={len(runs)})"
            )
        apart = max(costs.values()) / min(costs.values())
        print(f"by {axis}, dearest over cheapest token in MFLOP: {apart:.3g}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def settings(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is run, by name."""
    base = {
        "pairs": args.pairs,
        "steps": args.steps,
        "dtype": args.dtype,
        "tokens": args.tokens,
        "max_tokens": args.max_tokens,
        "trl_defaults": args.trl == "defaults",
        "helped": False,
        "labels_only": False,
        "profile": args.profile or args.sweep,
    }
    found = {
        "clair_apo": base,
        "trl": base,
        "trl, helped": base | {"helped": True},
        "trl, helped, labels only": base | {"helped": True, "labels_only": True},
    }
    if args.sweep:
        return {
            **{f"clair_apo, {n} pairs": base | {"pairs": n, "tokens": 512} for n in _PAIRS},
            **{
                f"clair_apo, {n} tokens a pair": base | {"pairs": 4096 // n, "tokens": n}
                for n in _TOKENS
            },
        }
    only = "clair_apo" if args.profile else args.only or ""
    return {name: spec for name, spec in found.items() if name.startswith(only)}


_PAIRS, _TOKENS = (2, 4, 8, 16, 32), (256, 512, 1024, 2048)


def main() -> None:
    """Run what the options say; with `--worker`, one run in this process."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(run_here(sys.argv[2], json.loads(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=4, help="in a step")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--trl", choices=["fastest", "defaults"], default="fastest")
    parser.add_argument("--only", choices=TRAINERS)
    parser.add_argument("--tokens", type=int, help="of every pair, instead of real lengths")
    parser.add_argument("--max-tokens", type=int, help="max_tokens_per_batch")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="that count, in each run")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    found = alternate(settings(args), args.runs)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1))
    if args.sweep:
        report_sweep(found)
    elif args.profile:
        report_kinds(found)
    else:
        report(found)


if __name__ == "__main__":
    main()
