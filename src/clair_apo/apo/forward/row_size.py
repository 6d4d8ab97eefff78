"""How many tokens go through a model at a time by default, and what memory they take.

On a CPU a row has `CPU_TOKENS`. On a CUDA device it has as many as fit into `SHARE` of the memory
that is free once weights, gradients and optimizer states are there:

    tokens = SHARE * (free - weights - gradients - states) / activation bytes of a token

rounded down to a power of two, so that the same machine cuts the same rows again. It is never below
`CPU_TOKENS`, and never below `LEAST_SPREAD` where each row gathers the weights of all processes.
"""

from typing import Any

import psutil
import torch

CPU_TOKENS = 4096
LEAST_SPREAD = 16_384
"""Under FSDP and DeepSpeed every row gathers the weights once, so that rows must be long."""
MOST = 131_072
"""Beyond it a longer row gains nothing."""
SHARE = 0.5
"""Of free memory. The rest is for what the formula does not know: copies in 16 bits that autocast
keeps, the head, fragments."""
ACTIVATION_WIDTHS = (16, 5)
"""Values kept for the backward pass, for each token and layer, in units of the hidden and of the
intermediate width: together 2.0 MB a token in SmolLM2-135M in float32, where about 2 MB were
measured."""
OPTIMIZER_STATES = {"adamw": 2.0, "adam": 2.0, "rmsprop": 1.0, "sgd": 0.0, "adafactor": 0.0}
"""Values of optimizer state for each trained weight, by how the optimizer's name begins."""


def row_tokens(model: Any, args: Any, device: torch.device, *, pieces: int = 1) -> int | None:
    """Tokens of a row: what was asked for, or what the device holds where that is `auto`.

    Args:
        model: adapted or not, on the device or not yet there.
        args: an `APOConfig`; `max_tokens_per_batch` is a number, None or `auto`.
        device: of the run.
        pieces: processes over which FSDP or DeepSpeed spread the weights; 1 where none does.
    """
    asked: int | str | None = args.max_tokens_per_batch
    if not isinstance(asked, str):
        return asked
    if device.type != "cuda":
        return CPU_TOKENS
    least = LEAST_SPREAD if pieces > 1 else CPU_TOKENS
    config = model.config.get_text_config()
    if not hasattr(config, "hidden_size") or not hasattr(config, "num_hidden_layers"):
        return least
    left = free_memory(device) - _to_come(model, args, device) // pieces
    fitting = max(int(SHARE * left / activation_bytes(model, args)), 1)
    return min(max(1 << (fitting.bit_length() - 1), least), MOST)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a CUDA device, with those that torch holds unused; else in memory."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _to_come(model: Any, args: Any, device: torch.device) -> int:
    """Bytes of weights that are not on the device, of all gradients, and of optimizer states."""
    weights = {id(weight): weight for weight in model.parameters()}.values()
    trained = sum(w.numel() * w.element_size() for w in weights if w.requires_grad)
    away = sum(w.numel() * w.element_size() for w in weights if w.device.type != device.type)
    states = optimizer_states(args)
    return int(away + trained + (2.0 if states is None else states) * trained)


def optimizer_states(args: Any) -> float | None:
    """Values of optimizer state for each trained weight; None where that is not known here."""
    name = str(getattr(args.optim, "value", args.optim))
    if "8bit" in name or "4bit" in name:
        return None
    return next((n for begin, n in OPTIMIZER_STATES.items() if name.startswith(begin)), None)


def activation_bytes(model: Any, args: Any) -> int:
    """Bytes that a forward keeps of each token for its backward.

    Args:
        model: its configuration counts.
        args: `bf16`, `fp16` and `gradient_checkpointing`.
    """
    config: Any = model.config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    kept = ACTIVATION_WIDTHS[0] * hidden + ACTIVATION_WIDTHS[1] * inner
    # with checkpointing the input of each layer is kept, and one layer at a time is whole
    values = hidden * layers + kept if args.gradient_checkpointing else kept * layers
    return int(values * (2 if args.bf16 or args.fp16 else 4))
