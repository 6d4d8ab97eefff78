"""Checkpoints that say whether they are complete, resuming from them, and Ctrl+C.

A process can be killed at any moment, also while several processes write one checkpoint. So a
checkpoint begins with a note that it is being written, and ends, when every process is done, with
the sizes of its files; older checkpoints are deleted only then. Ctrl+C saves one before it stops.
"""

import contextlib
import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clair_apo.apo.trl_compat import is_spread, rotate_checkpoints
from clair_apo.errors import TrainingError
from clair_apo.records import Record
from clair_apo.run_folder import write_json

NOTE = "checkpoint.json"
REFERENCE = "reference.safetensors"
"""A reference that moves (`sync_ref_model`), as it was at the step of the checkpoint."""

_ECHO_SECONDS = 1.0
"""`accelerate launch` passes a terminal's Ctrl+C on to processes that already had it."""

logger = logging.getLogger(__name__)


class CheckpointNote(Record):
    """The content of `checkpoint.json`."""

    complete: bool
    """False from the first byte that is written to the last."""
    resumable: bool = True
    """False where the optimizer was left out (`save_only_model`)."""
    files: dict[str, int] = Field(default_factory=dict)
    """Bytes of every file, by its path in the checkpoint."""


def incomplete_reason(checkpoint: Path) -> str | None:
    """What makes a checkpoint incomplete; None if nothing does.

    One without a note, written by another program, counts as complete where its trainer's state,
    which is written last, can be read.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its trainer_state.json cannot be read"
    note = _note(checkpoint)
    if note is None:
        return None
    if not note.complete:
        return "it was not written to its end"
    for name, size in note.files.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            return f"its {name} is missing or of another size"
    return None


def last_checkpoint(folder: Path, until: int | None = None) -> Path | None:
    """The latest complete `checkpoint-N` of a folder; a warning names later ones.

    Args:
        folder: of a run.
        until: only those up to this step; None takes all.
    """
    steps = {
        int(match[1]): path
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
        and (until is None or int(match[1]) <= until)
    }
    for step in sorted(steps, reverse=True):
        fault = incomplete_reason(steps[step])
        if fault is None:
            return steps[step]
        logger.warning(f"{steps[step]} is passed over: {fault}")
    return None


def check_resumable(checkpoint: Path) -> None:
    """Refuse a checkpoint from which a run cannot go on as if it had never stopped.

    Raises:
        TrainingError: it is incomplete, or was saved without the optimizer.
    """
    fault = incomplete_reason(checkpoint)
    if fault is not None:
        raise TrainingError(
            f"{checkpoint}: there is no complete checkpoint to resume from: {fault}"
        )
    note = _note(checkpoint)
    if note is not None and not note.resumable:
        raise TrainingError(
            f"{checkpoint}: was saved without the optimizer (save_only_model), so training cannot "
            "go on from it; give it as model_name_or_path to start a new run from its weights"
        )


def _note(checkpoint: Path) -> CheckpointNote | None:
    try:
        return CheckpointNote.model_validate_json((checkpoint / NOTE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        return CheckpointNote(complete=False)


@contextlib.contextmanager
def named_write_failure(folder: Path, step: int) -> Iterator[None]:
    """Turn what libraries raise when a disk takes no more into one error that says so.

    Raises:
        TrainingError: names the folder, the step and what to do.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        of_torch = "PytorchStreamWriter" in reason or "inline_container" in reason
        if isinstance(error, RuntimeError) and not of_torch:
            raise
        raise TrainingError(
            f"step {step}: {folder} cannot be written ({reason}). Free space, or save less "
            "(save_total_limit, save_only_model); then go on from the last complete checkpoint "
            "with --resume_from_checkpoint true"
        ) from error


def resume_folder(asked: str | bool | None, output_dir: Path) -> Path | None:
    """The checkpoint that a run is told to go on from; None starts anew.

    Args:
        asked: True or `true` for the last complete one of the run, a folder, or nothing.
        output_dir: of the run.

    Raises:
        TrainingError: the last one was asked for, and none is complete.
    """
    if str(asked or "false").lower() == "false":
        return None
    if str(asked).lower() != "true":
        return Path(str(asked))
    last = last_checkpoint(output_dir)
    if last is None:
        raise TrainingError(f"{output_dir}: there is no complete checkpoint to resume from")
    return last


class CheckpointWriter:
    """Writes checkpoints that survive a kill at any moment, with a reference that moves.

    Args:
        args: `save_total_limit`, `save_only_model`, `sync_ref_model` and which process writes.
        accelerator: of the run.
    """

    def __init__(self, args: TrainingArguments, accelerator: Any) -> None:
        self._args: Any = args
        self._accelerator = accelerator

    @contextlib.contextmanager
    def writing(self, run: Path, state: TrainerState) -> Iterator[Path]:
        """Note that a checkpoint is begun, and at the end that it is complete.

        Older checkpoints are deleted only then. All processes enter.

        Args:
            run: the folder of the run's checkpoints.
            state: names the step, and the best checkpoint.

        Yields:
            The folder to write to.

        Raises:
            TrainingError: the disk does not take it.
        """
        checkpoint, args = run / f"checkpoint-{state.global_step}", self._args
        limit = args.save_total_limit
        if args.should_save:
            write_json(checkpoint / NOTE, CheckpointNote(complete=False).model_dump())
        self._accelerator.wait_for_everyone()
        args.save_total_limit = None  # nothing older goes before this one is complete
        try:
            with named_write_failure(checkpoint, state.global_step):
                yield checkpoint
        finally:
            args.save_total_limit = limit
        self._accelerator.wait_for_everyone()
        if args.should_save:
            self._close(checkpoint)
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=limit,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=True,
            )

    def _close(self, checkpoint: Path) -> None:
        files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != NOTE)
        note = CheckpointNote(
            complete=True,
            resumable=not self._args.save_only_model,
            files={str(path.relative_to(checkpoint)): path.stat().st_size for path in files},
        )
        write_json(checkpoint / NOTE, note.model_dump())

    def save_reference(self, reference: Any, checkpoint: Path) -> None:
        """Keep a reference that moves, where one process has it whole.

        Args:
            reference: the reference model, wrapped or not.
            checkpoint: the folder to write to.
        """
        args = self._args
        if args.sync_ref_model and args.should_save and not is_spread(self._accelerator):
            save_model(self._unwrapped(reference), str(checkpoint / REFERENCE))

    def check_reference(self, checkpoint: Path) -> None:
        """Refuse a checkpoint without the reference that it needs.

        Raises:
            TrainingError: the reference moves, and the checkpoint does not hold it.
        """
        if self._args.sync_ref_model and not (checkpoint / REFERENCE).is_file():
            raise TrainingError(
                f"{checkpoint}: sync_ref_model moves the reference, and this checkpoint does not "
                "hold it as it was then (earlier versions, FSDP and DeepSpeed save none): start a "
                "new run in another output_dir"
            )

    def restore_reference(self, reference: Any, checkpoint: Path) -> None:
        """Read a reference that moves as it was at the step of a checkpoint.

        Args:
            reference: the reference model, wrapped or not; gets the weights.
            checkpoint: to resume from.
        """
        if self._args.sync_ref_model:
            load_model(self._unwrapped(reference), checkpoint / REFERENCE)

    def _unwrapped(self, reference: Any) -> Any:
        return self._accelerator.unwrap_model(reference, keep_torch_compile=False)


class Interrupt(TrainerCallback):
    """Turns the first Ctrl+C into a checkpoint at the end of the step under way.

    With several processes one of them is enough; all stop after the same step.
    Outside the main thread signals cannot be handled, and Ctrl+C stays what it was.

        with Interrupt(trainer) as interrupt:
            trainer.train()
        if interrupt.stopped_at is not None: ...

    Args:
        trainer: the trainer to watch over.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.stopped_at: int | None = None
        """The global step after which training was stopped; None where it was not."""
        self._trainer = trainer
        self._pressed_at: float | None = None
        self._previous: Any = None

    def __enter__(self) -> Self:
        self._trainer.add_callback(self)
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        self._trainer.remove_callback(self)
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._pressed_at is not None and now - self._pressed_at > _ECHO_SECONDS:
            raise KeyboardInterrupt
        if self._pressed_at is None and self._trainer.accelerator.is_main_process:
            # not a stream: one of them may be in the middle of a write
            os.write(2, b"\nfinishing the step, then saving; Ctrl+C again stops at once\n")
        self._pressed_at = self._pressed_at or now

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Agree with the other processes, then save and stop."""
        accelerator = self._trainer.accelerator
        if self._pressed_at is not None:
            accelerator.set_trigger()
        if accelerator.check_trigger():
            args.save_only_model = False  # without the optimizer nothing could be resumed
            control.should_save = control.should_training_stop = True
            self.stopped_at = state.global_step
