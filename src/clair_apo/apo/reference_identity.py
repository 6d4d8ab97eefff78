"""Who a reference is: digests of its weights, of its tokenizer, and the dtype it computes in.

Two models have one digest where they compute the same function of the same token ids, whatever
they are called, wherever they lie, and whether an adapter hangs beside them, switched off.
"""

# mypy: allow-untyped-calls
# trl is typed in part only

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor

from clair_apo.apo.reference_store import ReferenceIdentity
from clair_apo.errors import TrainingError
from clair_apo.records import digest

# What a config says of names, files and kernels; none of it is part of the function.
_NOT_THE_FUNCTION = {
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "_attn_implementation",
    "attn_implementation",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "id2label",
    "label2id",
}
# The same for an adapter; how it was initialised and dropped out is past, or is in its weights.
_NOT_THE_ADAPTER = {
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "auto_mapping",
    "task_type",
    "target_modules",
    "lora_dropout",
    "init_lora_weights",
}


class _Place(NamedTuple):
    """Where a weight belongs."""

    name: str
    """As it is called in the model without adapters."""
    adapter: str | None
    """The adapter it is part of; None for the model itself."""


def weights_digest(model: Any, adapter: str | None = None) -> str:
    """SHA-256 over the full weights and the configuration of a model, in hex.

    Weights that are spread over processes are gathered one by one; all processes must call then.

    Args:
        model: plain, or with adapters.
        adapter: the adapter that is switched on, under any name; None where all are off.
    """
    containers = _adapter_containers(model)
    seen: dict[Any, str] = {}
    rows = []
    for name, value in model.state_dict(keep_vars=True).items():
        place = _place(name, containers)
        if not isinstance(value, Tensor) or place.adapter not in (None, adapter):
            continue
        whole = _whole(value)
        storage = (whole.data_ptr(), whole.dtype, whole.shape, whole.stride())
        if whole is not value or storage not in seen:  # tied weights are read once
            seen[storage] = _tensor_digest(whole)
        rows.append([place.name, str(whole.dtype), list(whole.shape), seen[storage]])
    return digest([sorted(rows), function_config(model), _adapter_config(model, adapter)])


def trained_base_weights(model: Any) -> list[str]:
    """Weights below a model's adapters that training changes: unfrozen ones, biases for example.

    A layer that an adapter replaces as a whole (`modules_to_save`) is part of the adapter.

    Args:
        model: with adapters; not in a distributed wrapper.
    """
    containers = _adapter_containers(model)
    prefix = getattr(model.base_model, "prefix", None)  # some kinds of adapter name no container
    return [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad
        and _place(name, containers).adapter is None
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
        weights: from `weights_digest`, on this process.
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


def _adapter_containers(model: Any) -> set[str]:
    """The names under which `peft` keeps weights by adapter: `...q_proj.lora_A`."""
    return {"prompt_encoder"} | {
        f"{name}.{layer}"
        for name, module in model.named_modules()
        for layer in getattr(module, "adapter_layer_names", ())
    }


def _place(name: str, containers: set[str]) -> _Place:
    parts, adapter = name.split("."), None
    for end in range(1, len(parts)):
        if ".".join(parts[:end]) in containers:
            adapter = parts.pop(end)
            break
    if parts[:2] == ["base_model", "model"]:
        parts = parts[2:]
    kept = (part for part in parts if part not in ("base_layer", "original_module"))
    return _Place(".".join(kept), adapter)


def function_config(model: Any) -> dict[str, Any]:
    """A model's class, and what its configuration says of the function that the weights compute."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    # under an adapter the model itself is two floors below
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"class": type(inner).__name__, **_without(config, _NOT_THE_FUNCTION)}


def _adapter_config(model: Any, adapter: str | None) -> Any:
    if adapter is None:
        return None
    kept = _without(model.peft_config[adapter].to_dict(), _NOT_THE_ADAPTER)
    return json.loads(json.dumps(kept, default=_plain))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _without(value: Any, keys: set[str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {k: _without(v, keys) for k, v in value.items() if k not in keys}


def _whole(value: Any) -> Tensor:
    """A weight as if it lay on one process."""
    if hasattr(value, "full_tensor"):  # FSDP
        return value.full_tensor()  # type: ignore[no-any-return] # of a DTensor
    if not hasattr(value, "ds_id"):
        return value  # type: ignore[no-any-return] # a Tensor
    from deepspeed.zero import GatheredParameters  # type: ignore[import-not-found] # optional

    with GatheredParameters([value]):  # ZeRO-3
        return value.detach().clone()  # type: ignore[no-any-return] # a Tensor


def _tensor_digest(value: Tensor) -> str:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
