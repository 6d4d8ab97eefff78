"""Starts training in several processes of this machine, as `accelerate launch` does."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from clair_apo.errors import ConfigError, TrainingError

_ONE_MACHINE = ["--multi_gpu", "--num_machines", "1", "--main_process_port", "0"]
# precision is the training config's; for MULTI_GPU on CPUs see configs/accelerate/cpu.yaml
_NOTHING_ELSE = ["--mixed_precision", "no", "--dynamo_backend", "no"]


def launch_training(
    args: Sequence[str], num_processes: int | None, accelerate_config: Path | None = None
) -> None:
    """Run `clair-apo train` in several processes, and wait for them.

    Without an accelerate config this is data parallel training on one machine: on its GPUs, or on
    its CPU cores where it has none.

    Args:
        args: the command line of each process, after `train`.
        num_processes: how many; with an accelerate config its own number by default.
        accelerate_config: a YAML of `accelerate launch`, for FSDP, DeepSpeed or several machines.

    Raises:
        ConfigError: a number or a file that cannot be.
        TrainingError: a process was killed.
        SystemExit: a process failed and has said why: its status. 130 after Ctrl+C.
    """
    options = _launch_options(num_processes, accelerate_config)
    if num_processes is not None:  # else accelerate's config says how many share them
        _share_cores(num_processes)
    from clair_apo.apo.trl_compat import run_in_processes

    try:
        failed = run_in_processes([*options, "-m", "clair_apo", "train", *args])
    except ValueError as error:  # what accelerate says of its config
        raise ConfigError(f"accelerate launch: {error}") from None
    except KeyboardInterrupt:  # each process has said how to go on
        raise SystemExit(130) from None
    if failed is not None:
        _end_as(*failed)


def _launch_options(num_processes: int | None, accelerate_config: Path | None) -> list[str]:
    if num_processes is not None and num_processes < 1:
        raise ConfigError(f"num_processes must be 1 or more, got {num_processes}")
    number = [] if num_processes is None else ["--num_processes", str(num_processes)]
    if accelerate_config is not None:
        if not accelerate_config.is_file():
            raise ConfigError(f"accelerate_config: {accelerate_config} is no file")
        return ["--config_file", str(accelerate_config), *number]
    _check_gpus(num_processes or 1)
    return [*_ONE_MACHINE, *_NOTHING_ELSE, *number]


def _check_gpus(num_processes: int) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < num_processes:
        raise ConfigError(f"num_processes is {num_processes}, but this machine has {gpus} GPUs")


def _share_cores(num_processes: int) -> None:
    """Give each process its share of the cores, unless the user has said how many it takes."""
    share = max(1, len(os.sched_getaffinity(0)) // num_processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(share))


def _end_as(rank: int, status: int) -> NoReturn:
    """End as the first process that failed did; it has said why, where it could.

    Raises:
        TrainingError: it was killed, and could not.
        SystemExit: its status.
    """
    if status < 0:
        raise TrainingError(
            f"process {rank} was killed by signal {-status}; the others were ended. The last "
            "complete checkpoint is kept: go on with --resume_from_checkpoint true"
        )
    raise SystemExit(status)
