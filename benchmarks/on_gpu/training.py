"""Three training steps by one path, and steps in several processes beside those of one."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from on_gpu.machine import synchronize
from on_gpu.models import VOCABULARY, llama, pair_lengths, random_model, rows, tokenizer
from on_gpu.paths import PADDED, faults_of, only

STEPS = 3
PAIRS = 8
"""In a step, all processes together."""


class Clock(TrainerCallback):
    """Seconds of each step, and compilations so far at its end."""

    def __init__(self, device: str) -> None:
        self.seconds: list[float] = []
        self.compilations: list[int] = []
        self._device = device

    def on_step_begin(self, *event: Any, **more: Any) -> None:
        """Start the clock once the device is idle."""
        synchronize(self._device)
        self._start = time.perf_counter()

    def on_step_end(self, *event: Any, **more: Any) -> None:
        """Stop it once the device has done the step."""
        synchronize(self._device)
        self.seconds.append(time.perf_counter() - self._start)
        self.compilations.append(compilations())


def compilations() -> int:
    """Graphs that torch has compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"].get("unique_graphs", 0))


def compile_seconds() -> float:
    """Seconds that torch has spent on compiling in this process."""
    from torch._dynamo.utils import compilation_time_metrics

    return float(sum(compilation_time_metrics.get("entire_frame_compile", [])))


def settings(folder: str, device: str, **options: Any) -> dict[str, Any]:
    """The arguments that every trainer of the parts is given."""
    given: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": STEPS,
        "per_device_train_batch_size": PAIRS,
        "loss_type": ["apo_zero"],
        "use_cpu": device == "cpu",
        "bf16": device != "cpu",
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "max_length": None,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 0,
    }
    return given | options


def apo_trainer(size: str, device: str, folder: str, count: int, **options: Any) -> Any:
    """An `APOTrainer` of a random Llama, weights in fp32, on pairs as long as real ones."""
    from datasets import Dataset

    from clair_apo.apo import APOConfig, APOTrainer

    own = {"reference_cache": folder, "watch_prompts": 0}
    lengths = pair_lengths("real", count, 1, scale=0.05 if size == "toy" else 0.5)
    clock = Clock(device)
    return APOTrainer(
        model=random_model(llama(size), "cpu", torch.float32),
        args=APOConfig(**(settings(folder, device) | own | options)),
        train_dataset=Dataset.from_list(rows(lengths, VOCABULARY[size], 1)),
        processing_class=tokenizer(VOCABULARY[size]),
        callbacks=[clock],
    ), clock


def run(device: str, path: str, *, toy: bool) -> dict[str, Any]:
    """Three steps with forward and backward by one path; what was compiled, and when."""
    layout = "padded" if path == PADDED else "shared_prefix"
    size = "toy" if toy else "small"
    with tempfile.TemporaryDirectory() as folder, only(path) as calls:
        trainer, clock = apo_trainer(size, device, folder, STEPS * PAIRS, pair_layout=layout)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    faults = faults_of(path, calls)
    if trainer.layout.way != path:
        faults.append(f"another path was taken: {trainer.layout.proof}")
    if not all(torch.isfinite(torch.tensor(losses))) or len(losses) != STEPS:
        faults.append(f"losses {losses}")
    if abs(losses[0] - 1) > 0.05:
        faults.append(f"the first loss is {losses[0]:.4g}, not 1")
    if clock.compilations[-1] > clock.compilations[1]:
        faults.append(f"the last step compiled again: {clock.compilations}")
    return {
        "way": str(trainer.layout.proof),
        "step seconds": clock.seconds,
        "losses": losses,
        "compilations after each step": clock.compilations,
        "compile seconds": compile_seconds(),
        "peak GiB": peak_gib(device),
        "faults": faults,
    }


def peak_gib(device: str) -> float:
    """The most memory that the device has held since the process began."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def child(device: str, folder: str, processes: int, toy: bool) -> None:
    """What each of several processes does: train, and let the first one write the losses."""
    size = "toy" if toy else "small"
    batch = PAIRS // processes
    trainer, clock = apo_trainer(
        size, device, folder, STEPS * PAIRS, per_device_train_batch_size=batch
    )
    trainer.train()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found = {"losses": losses, "step seconds": clock.seconds, "layout": trainer.pair_layout}
        Path(folder, f"found-{processes}.json").write_text(json.dumps(found))
    from clair_apo.apo.process_exit import freeze_objects_for_exit

    freeze_objects_for_exit(processes)
    trainer.end()


def run_parallel(device: str, kind: str, processes: int) -> dict[str, Any]:
    """The losses of several processes beside those of one, with the same pairs in each step.

    Args:
        device: `cuda`, or `cpu` for a trial.
        kind: `ddp` or `fsdp2`.
        processes: as many as there are devices, up to 8.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, processes):
            _launch(device, kind, count, folder)
            found[count] = json.loads(Path(folder, f"found-{count}.json").read_text())
    one, many = found[1]["losses"], found[processes]["losses"]
    apart = max(abs(a - b) for a, b in zip(one, many, strict=True))
    allowed = 1e-4 if device == "cpu" else 0.02  # bf16: other batches, other rounding
    return {
        "processes": processes,
        "layout": found[processes]["layout"],
        "losses of one": one,
        "losses of all": many,
        "step seconds": found[processes]["step seconds"],
        "faults": [] if apart <= allowed else [f"losses differ by {apart:.2g}"],
    }


def _launch(device: str, kind: str, count: int, folder: str) -> None:
    root = Path(__file__).parents[2]
    name = "cpu" if device == "cpu" else {"ddp": "multi_gpu", "fsdp2": "fsdp2"}[kind]
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--config_file", str(root / "configs/accelerate" / f"{name}.yaml")]
    launcher += ["--num_processes", str(count), "--main_process_port", "0"]
    script = [str(root / "benchmarks/gpu.py"), "--child", folder, str(count), "--device", device]
    command = [sys.executable] if count == 1 else launcher
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    alone = {"CUDA_VISIBLE_DEVICES": first} if count == 1 else {}
    done = subprocess.run(
        [*command, *script],
        env=os.environ | alone,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{count} processes failed:\n{done.stderr[-3000:]}")
