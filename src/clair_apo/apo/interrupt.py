"""Ctrl+C during training: finish the step, save a checkpoint, stop; pressed again, stop at once."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_ECHO_SECONDS = 1.0
"""`accelerate launch` passes a terminal's Ctrl+C on to processes that already had it."""


class Interrupt(TrainerCallback):
    """Turns the first Ctrl+C into a checkpoint at the end of the step under way.

    With several processes it is enough that one of them was told; all stop after the same step.
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
