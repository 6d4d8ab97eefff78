"""Estimates memory and time of a training run from its config and its tokens.

Both are estimates and say so. Weights, gradients, optimizer states and operations are counted;
activations follow a formula that was fitted to one model (`row_size.py`), and the time rests on
the matrix-product rate of the device at hand, measured now.
"""

import math
from typing import Any, NamedTuple, Self

from transformers import PreTrainedModel

from clair_apo.apo.forward.operations import ModelSize
from clair_apo.apo.forward.row_size import activation_bytes, optimizer_states
from clair_apo.apo.lengths import PairLengths
from clair_apo.records import Record

UTILISATION = 0.7
"""Share of the measured matrix-product rate that a training step is taken to reach."""
PADDED_LOGITS = 6
"""Times that TRL's head holds all logits of a padded batch on a CPU: fitted to the 14.5 GB that
TRL 1.16 needed for 4,344 padded tokens of SmolLM2-135M."""


class TrainingEstimate(Record):
    """Memory in bytes on one device, and time."""

    parameters: int
    trained: int
    """Parameters that receive a gradient."""
    weights: int
    gradients: int
    optimizer: int | None
    """None for an optimizer whose states are not known here."""
    reference: int
    """A second model in memory; 0 where log-probs are precomputed or an adapter is switched off."""
    activations: int
    """Of the largest forward and backward."""
    steps: int
    operations: float
    """Floating-point operations of all steps and of the reference."""
    rate: float
    """Matrix products of the device, in operations a second, measured now."""
    of_position: float
    """Operations of the forward and backward of one position."""

    @property
    def memory(self) -> int:
        """Bytes in all: weights, gradients, optimizer, reference and activations."""
        parts = (self.weights, self.gradients, self.optimizer or 0, self.reference)
        return sum(parts) + self.activations

    @property
    def seconds(self) -> float:
        """Training time on as many devices as processes are running."""
        return self.operations / (self.rate * UTILISATION)

    def seconds_of_row(self, positions: int) -> float:
        """Time of the forward and backward of a row."""
        return self.of_position * positions / (self.rate * UTILISATION)


def estimate(
    model: PreTrainedModel,
    lengths: PairLengths,
    args: Any,
    *,
    padded: bool,
    rate: float,
    limit: int | None,
) -> TrainingEstimate:
    """Estimate a run.

    Args:
        model: on the meta device: its shapes count, not its weights. Adapted where an adapter is
            trained.
        lengths: of the pairs trained on.
        args: an `APOConfig`.
        padded: whether pairs do not share their beginning.
        rate: what `operations.matrix_rate` measured.
        limit: tokens of a row at most; None never cuts.
    """
    weights = {id(w): w for w in model.parameters()}.values()  # tied weights count once
    trained = [w for w in weights if w.requires_grad]
    adapter = len(trained) < len(weights)
    states = optimizer_states(args)
    count = sum(w.numel() for w in trained)
    size = sum(w.numel() * w.element_size() for w in weights)
    trained_size = sum(w.numel() * w.element_size() for w in trained)
    # without precomputed log-probs and without an adapter to switch off, a copy is held
    copies = args.precompute_ref_log_probs is False and not adapter
    steps, pairs = _steps(lengths.pairs, args)
    tokens = lengths.separate_tokens if padded else lengths.tree_tokens
    forward = _Forward.of(model, lengths, args, tokens, adapter)
    return TrainingEstimate(
        parameters=sum(w.numel() for w in weights),
        trained=count,
        weights=size,
        gradients=trained_size,
        optimizer=None if states is None else int(states * trained_size),
        reference=size if copies else 0,
        activations=_activations(model, lengths, args, padded, limit),
        steps=steps,
        operations=forward.of_run(args, pairs / lengths.pairs),
        rate=rate,
        of_position=forward.operations * forward.times / tokens,
    )


def _steps(pairs: int, args: Any) -> tuple[int, float]:
    """Optimizer steps, and pairs seen in all of them on one process."""
    in_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.max_steps > 0:
        return args.max_steps, args.max_steps * in_step / args.world_size
    steps = math.ceil(math.ceil(pairs / in_step) * args.num_train_epochs)
    return steps, pairs * args.num_train_epochs / args.world_size


def _activations(
    model: PreTrainedModel, lengths: PairLengths, args: Any, padded: bool, limit: int | None
) -> int:
    batch = args.per_device_train_batch_size
    longest = lengths.prompt.maximum + max(lengths.chosen.maximum, lengths.rejected.maximum)
    if args.max_length is not None:
        longest = min(longest, args.max_length)
    largest = 2 * longest if padded else lengths.longest_tree
    tokens = max(largest, min(limit or math.inf, batch * largest))
    logits = PADDED_LOGITS * model.config.get_text_config().vocab_size if padded else 0
    return int(tokens * (activation_bytes(model, args) + 4 * logits))


class _Forward(NamedTuple):
    """Operations of one forward over all pairs, and how often a step does as many."""

    operations: float
    times: int

    @classmethod
    def of(
        cls, model: PreTrainedModel, lengths: PairLengths, args: Any, tokens: int, adapter: bool
    ) -> Self:
        answers = lengths.pairs * (lengths.chosen.mean + lengths.rejected.mean)
        sequence = lengths.separate_tokens / (2 * lengths.pairs)
        # backward costs two forwards, one where only an adapter's gradients are taken
        times = (2 if adapter else 3) + bool(args.gradient_checkpointing)
        return cls(ModelSize.of(model).operations(tokens, answers, sequence), times)

    def of_run(self, args: Any, epochs: float) -> float:
        precomputed = args.precompute_ref_log_probs is not False
        reference: float = 1 / args.world_size if precomputed else epochs
        return float(self.operations * (self.times * epochs + reference))
