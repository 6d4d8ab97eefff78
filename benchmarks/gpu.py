"""Everything that a GPU has to settle, in one command; made to run on any machine with torch.

    make gpu                                       (MINUTES=8, WHEELS=folder)
    python benchmarks/gpu.py --minutes 8
    python benchmarks/gpu.py --wheels wheels       (packages from a folder; torch stays as it is)
    python benchmarks/gpu.py --device cpu          (a trial of the program, at toy size)
    python benchmarks/gpu.py --only exact --retry

Parts: `machine` (rate of matrix products), `exact/PATH` (log-probs and gradients of four families
in fp32 and bf16), `three_steps/PATH` (training, FlexAttention's backward included, compilations),
`step/SIZE/CONTENDER` (a step beside TRL's on Llamas of 1B and 8B), `parallel/KIND` (DDP and FSDP2,
where there are several GPUs) and `generation`. PATH is flex_attention, attention_per_branch or
padded.

Each part is a process of its own; what it found is in `--out` as soon as it is there, and is not
run again (`--retry`: what failed is). What the time does not suffice for is left to the next call.
No hub and no network are used. Ends with a Markdown table and what failed; status 1 if any did.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS))

from on_gpu import wheels  # noqa: E402 # found by the line above
from on_gpu.results import Result, Results, markdown  # noqa: E402

PATHS = ("flex_attention", "attention_per_branch", "padded")
FINISH_S = 600
"""Seconds that a part may take at most."""
LEAST_S = 20
"""Seconds that must be left for a part to begin."""
NEEDS_GIB = {"1b": 24, "8b": 90}
"""Memory of a GPU for weights, gradients and optimizer states in bf16, and a pair."""


def part_names(machine: dict[str, Any]) -> list[str]:
    """Every part, the most important first."""
    sizes = ("toy",) if machine["device"] == "cpu" else ("1b", "8b")
    contenders = ["clair_apo", "trl_sdpa"]
    if machine.get("flash_attn", "not there") != "not there":
        contenders.append("trl_flash")
    return [
        "machine",
        *(f"exact/{path}" for path in PATHS),
        *(f"three_steps/{path}" for path in PATHS),
        *(f"step/{size}/{who}" for size in sizes for who in contenders),
        *(f"parallel/{kind}" for kind in ("ddp", "fsdp2")),
        "generation",
    ]


def why_not(name: str, machine: dict[str, Any], missing: list[str]) -> str | None:
    """Why a part cannot run here; None if it can."""
    on_cpu = machine["device"] == "cpu"
    kind, _, rest = name.partition("/")
    if missing and name != "machine":
        return f"missing: {', '.join(missing)}"
    if on_cpu and name == "three_steps/flex_attention":
        return "FlexAttention has no backward on a CPU"
    if on_cpu and name == "parallel/fsdp2":
        return "accelerate spreads no weights over CPUs"
    if kind == "parallel" and not on_cpu and machine["devices"] < 2:
        return "there is one GPU"
    if kind == "step" and not on_cpu:
        need = NEEDS_GIB[rest.split("/")[0]]
        if machine["GiB free"] < need:
            return f"needs {need} GiB of memory, {machine['GiB free']} are free"
    return None


def run_part(name: str, device: str) -> dict[str, Any]:
    """Run one part in this process, on a CPU at toy size."""
    toy = device == "cpu"
    kind, *rest = name.split("/")
    if kind == "machine":
        from on_gpu import machine

        return machine.run(device, toy=toy)
    if kind == "exact":
        from on_gpu import exactness

        return exactness.run(device, rest[0], toy=toy)
    if kind == "step":
        from on_gpu import beside_trl

        return beside_trl.run(device, rest[0], rest[1], toy=toy)
    if kind == "generation":
        from on_gpu import generation

        return generation.run(device, toy=toy)
    from on_gpu import training

    if kind == "three_steps":
        return training.run(device, rest[0], toy=toy)
    import torch

    processes = 2 if device == "cpu" else min(torch.cuda.device_count(), 8)
    return training.run_parallel(device, rest[0], processes)


def work(args: argparse.Namespace) -> None:
    """Be the process of one part: write its figures, or what went wrong, into a file."""
    try:
        if args.worker == "describe":
            from on_gpu import machine

            found = machine.describe(args.device)
        else:
            found = run_part(args.worker, args.device)
    except BaseException:  # also what ends a process by itself: it must not look like a result
        found = {"error": traceback.format_exc()}
    args.result.write_text(json.dumps(found))


def environment(target: Path | None, *, one_device: bool = False) -> dict[str, str]:
    """Of the processes of parts: our sources on the path, and no hub.

    Args:
        target: where packages were installed, if any were.
        one_device: hide all GPUs but the first, over which transformers would spread a batch.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
    alone = {"CUDA_VISIBLE_DEVICES": visible.split(",")[0]} if one_device else {}
    paths = [target, BENCHMARKS, BENCHMARKS.parent / "src", os.environ.get("PYTHONPATH")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **alone,
    }


def apart(name: str, args: argparse.Namespace, target: Path | None, seconds: float) -> Result:
    """Run one part in a process of its own, for so many seconds at most."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        command = [sys.executable, __file__, "--worker", name, "--result", str(result)]
        command += ["--device", args.device]
        alone = name != "describe" and not name.startswith("parallel")
        fault = _finished(command, environment(target, one_device=alone), log, seconds)
        found: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
        said = log.read_text(errors="replace")[-3000:]
    taken = round(time.perf_counter() - start, 1)
    if not found:
        return {"status": "failed", "seconds": taken, "error": f"{said}\n{fault}"}
    if "error" in found:
        return {"status": "failed", "seconds": taken, "error": found["error"]}
    faults = found.pop("faults", [])
    whole: Result = {"status": "ok", "seconds": taken, "figures": found}
    return whole | ({"status": "failed", "error": "\n".join(faults)} if faults else {})


def _finished(command: list[str], env: dict[str, str], log: Path, seconds: float) -> str:
    """Run a process to its end or its limit; what ended it, in words."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return f"ended with status {process.wait(timeout=seconds)} and no result"
        except subprocess.TimeoutExpired:
            return f"took longer than {seconds:.0f} s"
        finally:
            if process.poll() is None:  # after Ctrl+C too
                os.killpg(process.pid, 9)  # a launcher's children as well
                process.wait()


def run_all(args: argparse.Namespace, target: Path | None, missing: list[str]) -> int:
    """Run every part that is wanted and for which there is time; returns how many failed."""
    began = time.monotonic()
    described = apart("describe", args, target, 300)
    if described["status"] != "ok":
        said = described["error"].strip().splitlines()[-1]
        raise SystemExit(f"torch does not work on {args.device}: {said}")
    results = Results(args.out, described["figures"])
    names = [name for name in part_names(results.machine) if name.startswith(args.only)]
    again = set(results.failed()) if args.retry else set()
    for name in names:
        there = results.parts.get(name, {"status": "skipped"})["status"] != "skipped"
        if there and name not in again:
            continue
        reason = why_not(name, results.machine, missing)
        left = 60 * args.minutes - (time.monotonic() - began)
        if reason:
            results.add(name, {"status": "skipped", "seconds": 0, "error": reason})
        elif left < LEAST_S:
            continue
        else:
            print(f"{name} ...", flush=True)
            results.add(name, apart(name, args, target, min(left, FINISH_S)))
        found = results.parts[name]
        print(f"{name}: {found['status']}, {found['seconds']} s", flush=True)
    return report(args, results)


def report(args: argparse.Namespace, results: Results) -> int:
    """Write the table, and say what failed."""
    from on_gpu.ratios import ratios_in_words

    names = part_names(results.machine)
    table = markdown(results, names) + ratios_in_words(results.parts)
    args.out.with_suffix(".md").write_text(table, encoding="utf-8")
    print(f"\n{table}\n{args.out} and {args.out.with_suffix('.md')}")
    for name in results.left(names):
        print(f"not run yet: {name}")
    for name, error in results.failed().items():
        print(f"FAILED {name}: {error}")
    return len(results.failed())


def main() -> int:
    """Run the parts, or be the process of one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, help="runs/gpu.json, on a CPU runs/gpu_trial.json")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to install beside torch")
    parser.add_argument("--only", default="", help="parts whose name begins so")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out or Path("runs", "gpu_trial.json" if args.device == "cpu" else "gpu.json")
    if args.child:
        from on_gpu.training import child

        child(args.device, args.child[0], int(args.child[1]), args.device == "cpu")
        return 0
    if args.worker:
        work(args)
        return 0
    target = args.out.parent / "gpu_packages"
    target.mkdir(parents=True, exist_ok=True)
    if args.wheels:
        wheels.install(args.wheels, target)
    wheels.describe_package(target)
    sys.path.insert(0, str(target))
    missing = wheels.missing()
    if missing:
        print(wheels.how_to_get(missing))
    return 1 if run_all(args, target, missing) or missing else 0


if __name__ == "__main__":
    sys.exit(main())
