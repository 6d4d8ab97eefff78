"""How fast a run trains: tokens a second, padding, shared tokens, and use of the machine.

Only optimizer steps are timed, with the fetching of their batches: no evaluation, no checkpoint.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clair_apo.apo.forward.operations import ModelSize, matrix_rate

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What configs of transformers call the number of experts in a mixture."""

_COUNTED = ("hidden_size", "num_hidden_layers", "vocab_size")


class Work(NamedTuple):
    """What the pairs of a log asked of the model; every field is (B,)."""

    sequence_tokens: Tensor
    """Tokens of both sequences, prompts included and padding not."""
    positions: Tensor
    """What the model computed for them: more by padding, or fewer by sharing."""
    answer_tokens: Tensor
    """Tokens of both answers."""


class StepCost(NamedTuple):
    """What the operations of a run's steps are counted from."""

    size: ModelSize
    forwards: int
    """What a step costs, in forwards: one, and two for backward, one where only an adapter's
    gradients are taken; one more where the reference is asked in every step."""
    rate: Callable[[], float]
    """What the machine reaches in matrix products, in operations a second."""

    def operations(self, work: Work) -> float:
        """Operations that the pairs need: no padding, nothing that checkpointing computes again."""
        used = torch.minimum(work.positions, work.sequence_tokens).double().sum().item()
        labels = work.answer_tokens.double().sum().item()
        sequence = work.sequence_tokens.double().mean().item() / 2
        return self.forwards * self.size.operations(used, labels, sequence)


def step_cost(args: Any, model: Any, device: torch.device) -> StepCost | None:
    """What a run's steps cost; None where the operations of its model are not known.

    They are not known for quantized weights, a model that sees more than text, or a mixture of
    experts, of which a token meets few.

    Args:
        args: an `APOConfig`.
        model: adapted or not, before it is wrapped.
        device: of the run.
    """
    config = model.config.get_text_config()
    unknown = (
        config is not model.config
        or getattr(model, "hf_quantizer", None) is not None
        or any(getattr(config, name, None) for name in _EXPERTS)
        or not all(hasattr(config, name) for name in _COUNTED)
    )
    if unknown:
        return None
    adapter = any(not weight.requires_grad for weight in model.parameters())
    asked = args.precompute_ref_log_probs is False
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
    forwards = (2 if adapter else 3) + asked
    return StepCost(ModelSize.of(model), forwards, lambda: matrix_rate(device, dtype))


class SpeedLog(TrainerCallback):
    """Times the steps since the last log.

    Args:
        cost: of the steps; None leaves utilisation out.
        processes: that train together.
    """

    def __init__(self, cost: StepCost | None, processes: int) -> None:
        self._cost = cost
        self._processes = processes
        self._seconds = 0.0
        self._began: float | None = None

    def on_train_begin(self, *event: Any, **more: Any) -> None:
        """Forget what a run that broke off left."""
        self._seconds, self._began = 0.0, None

    def begin_step(self) -> None:
        """A step begins: its batches are about to be fetched."""
        self._began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the step, once the device is done with it where that is about to be logged."""
        if control.should_log and torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self._stop()

    def _stop(self) -> None:
        if self._began is not None:
            self._seconds += time.perf_counter() - self._began
            self._began = None

    def take(self, work: Work) -> dict[str, float]:
        """The metrics of the steps since they were taken last; empty where none was timed.

        Args:
            work: of all processes in these steps.
        """
        running = self._began is not None
        self._stop()
        seconds, self._seconds = self._seconds, 0.0
        if running:  # a log from within a step
            self.begin_step()
        if not seconds:
            return {}
        tokens = work.sequence_tokens.double().sum().item()
        positions = work.positions.double().sum().item()
        used = torch.minimum(work.positions, work.sequence_tokens).double().sum().item()
        found = {
            "speed/tokens_per_second": tokens / seconds,
            "speed/padding": 1 - used / positions,
            "speed/shared": 1 - used / tokens,
        }
        if self._cost is not None:
            reached = self._cost.operations(work) / seconds
            found["speed/utilisation"] = reached / (self._cost.rate() * self._processes)
        return found
