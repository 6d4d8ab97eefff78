"""The identity of a reference: digests of its function and of its tokenizer, and its dtype."""

import json
from typing import Any

import torch
from accelerate.utils import gather_object

from clair_apo.apo.reference.model_function import adapter_containers, adapter_of
from clair_apo.apo.reference.storage import ReferenceIdentity
from clair_apo.apo.trl_compat import adapter_prefix
from clair_apo.errors import TrainingError
from clair_apo.records import digest


def trained_base_weights(model: Any) -> list[str]:
    """Weights below a model's adapters that training changes: unfrozen ones, biases for example.

    A layer that an adapter replaces as a whole (`modules_to_save`) is part of the adapter.

    Args:
        model: with adapters; not in a distributed wrapper.
    """
    containers = adapter_containers(model)
    prefix = adapter_prefix(model)  # some kinds of adapter name no container
    return [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad
        and adapter_of(name, containers) is None
        and not (prefix and prefix in name)
    ]


def tokenizer_digest(processing_class: Any) -> str:
    """SHA-256 over vocabulary, rules and chat template of a tokenizer or processor, in hex."""
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    for state in ("truncation", "padding"):  # of the latest call
        rules.pop(state, None)
    return digest([rules, processing_class.chat_template])


def agreed_identity(
    *, weights: str, processing_class: Any, dtype: torch.dtype, mixed_precision: str, spread: bool
) -> ReferenceIdentity:
    """The identity of a reference, the same on every process.

    Args:
        weights: digest of the function, on this process.
        processing_class: tokenizer or processor.
        dtype: of the weights.
        mixed_precision: accelerate's word for autocast; `no` where there is none.
        spread: whether only the first process may have had weights to read (FSDP loads them
            there, and hands them on when it shards).

    Raises:
        TrainingError: the processes hold different weights.
    """
    everywhere = gather_object([weights])
    if not spread and len(set(everywhere)) > 1:
        raise TrainingError(
            "the processes hold different reference weights "
            f"({', '.join(sorted({w[:12] for w in everywhere}))}): load the same model, or set the "
            "same seed, in each of them"
        )
    name = str(dtype).removeprefix("torch.")
    return ReferenceIdentity(
        weights=everywhere[0],
        tokenizer=tokenizer_digest(processing_class),
        dtype=name if mixed_precision == "no" else f"{name}, {mixed_precision} autocast",
    )
