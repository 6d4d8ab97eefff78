"""Estimates memory and time of a training run from its config and its tokens.

Both are estimates and say so. Weights, gradients, optimizer states and operations are counted;
activations follow a formula that was fitted to one model (see `ACTIVATION_WIDTHS`), and the time
rests on the matrix-product rate of the device at hand, measured now.
"""

import math
from typing import Any

from transformers import PreTrainedModel

from clair_apo.apo.forward.operations import ModelSize
from clair_apo.apo.lengths import PairLengths
from clair_apo.records import Record

UTILISATION = 0.7
"""Share of the measured matrix-product rate that a training step is taken to reach."""
ACTIVATION_WIDTHS = (16, 5)
"""Values kept for the backward pass, for each token and layer, in units of the hidden and of the
intermediate width: together 2.0 MB a token in SmolLM2-135M in float32, where about 2 MB were
measured."""
PADDED_LOGITS = 6
"""Times that TRL's head holds all logits of a padded batch on a CPU: fitted to the 14.5 GB that
TRL 1.16 needed for 4,344 padded tokens of SmolLM2-135M."""
OPTIMIZER_STATES = {"adamw": 2.0, "adam": 2.0, "rmsprop": 1.0, "sgd": 0.0, "adafactor": 0.0}
"""Values of optimizer state for each trained weight, by how the optimizer's name begins."""


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

    @property
    def memory(self) -> int:
        """Bytes in all: weights, gradients, optimizer, reference and activations."""
        parts = (self.weights, self.gradients, self.optimizer or 0, self.reference)
        return sum(parts) + self.activations

    @property
    def seconds(self) -> float:
        """Training time on as many devices as processes are running."""
        return self.operations / (self.rate * UTILISATION)


def estimate(
    model: PreTrainedModel, lengths: PairLengths, args: Any, *, padded: bool, rate: float
) -> TrainingEstimate:
    """Estimate a run.

    Args:
        model: on the meta device: its shapes count, not its weights. Adapted where an adapter is
            trained.
        lengths: of the pairs trained on.
        args: an `APOConfig`.
        padded: whether pairs do not share their beginning.
        rate: what `operations.matrix_rate` measured.
    """
    weights = {id(w): w for w in model.parameters()}.values()  # tied weights count once
    trained = [w for w in weights if w.requires_grad]
    adapter = len(trained) < len(weights)
    states = _optimizer_states(getattr(args.optim, "value", args.optim))
    count = sum(w.numel() for w in trained)
    size = sum(w.numel() * w.element_size() for w in weights)
    trained_size = sum(w.numel() * w.element_size() for w in trained)
    # without precomputed log-probs and without an adapter to switch off, a copy is held
    copies = args.precompute_ref_log_probs is False and not adapter
    steps, pairs = _steps(lengths.pairs, args)
    tokens = lengths.separate_tokens if padded else lengths.tree_tokens
    return TrainingEstimate(
        parameters=sum(w.numel() for w in weights),
        trained=count,
        weights=size,
        gradients=trained_size,
        optimizer=None if states is None else int(states * trained_size),
        reference=size if copies else 0,
        activations=_activations(model, lengths, args, padded),
        steps=steps,
        operations=_operations(model, lengths, args, tokens, pairs, adapter),
        rate=rate,
    )


def _optimizer_states(name: str) -> float | None:
    if "8bit" in name or "4bit" in name:
        return None
    return next((n for begin, n in OPTIMIZER_STATES.items() if name.startswith(begin)), None)


def _steps(pairs: int, args: Any) -> tuple[int, float]:
    """Optimizer steps, and pairs seen in all of them on one process."""
    in_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.max_steps > 0:
        return args.max_steps, args.max_steps * in_step / args.world_size
    steps = math.ceil(math.ceil(pairs / in_step) * args.num_train_epochs)
    return steps, pairs * args.num_train_epochs / args.world_size


def _activations(model: PreTrainedModel, lengths: PairLengths, args: Any, padded: bool) -> int:
    config: Any = model.config.get_text_config()
    batch = args.per_device_train_batch_size
    limit = args.max_tokens_per_batch or math.inf
    longest = lengths.prompt.maximum + max(lengths.chosen.maximum, lengths.rejected.maximum)
    if args.max_length is not None:
        longest = min(longest, args.max_length)
    largest = 2 * longest if padded else lengths.longest_tree
    tokens = max(largest, min(limit, batch * largest))
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    kept = ACTIVATION_WIDTHS[0] * hidden + ACTIVATION_WIDTHS[1] * inner
    layers = config.num_hidden_layers
    # with checkpointing the input of each layer is kept, and one layer at a time is whole
    values = hidden * layers + kept if args.gradient_checkpointing else kept * layers
    logits = PADDED_LOGITS * config.vocab_size if padded else 0
    return int(tokens * (values * (2 if args.bf16 or args.fp16 else 4) + 4 * logits))


def _operations(
    model: PreTrainedModel,
    lengths: PairLengths,
    args: Any,
    tokens: int,
    pairs: float,
    adapter: bool,
) -> float:
    answers = lengths.pairs * (lengths.chosen.mean + lengths.rejected.mean)
    sequence = lengths.separate_tokens / (2 * lengths.pairs)
    forward = ModelSize.of(model).operations(tokens, answers, sequence)
    # backward costs two forwards, one where only an adapter's gradients are taken
    times = (2 if adapter else 3) + bool(args.gradient_checkpointing)
    epochs = pairs / lengths.pairs
    reference: float = 1 / args.world_size if args.precompute_ref_log_probs is not False else epochs
    return float(forward * (times * epochs + reference))
