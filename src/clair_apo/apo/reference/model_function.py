"""A digest of the function of token ids that a model computes, in eval mode and as it is set.

All that enters is read where it acts: weights and buffers, what each module holds beside them, the
configuration, and of adapters those that are on, at their scale. Two models have one digest where
they compute the same function, whatever they are called, wherever they lie, and whether an adapter
hangs beside them, switched off. Code that is the user's own is read where a file defines it; a hook
or a patched function is not, and is named instead.
"""

import functools
import hashlib
import inspect
import json
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn
from transformers import PretrainedConfig

from clair_apo.apo.forward.layout_choice import tree_obstacle
from clair_apo.apo.forward.noise import DROPOUT
from clair_apo.apo.forward.shared_prefix import bare_model
from clair_apo.apo.reference.users_code import FUNCTIONS, calls_users_code, is_library, module_of
from clair_apo.apo.trl_compat import (
    WRAPPED,
    BaseTuner,
    adapter_attributes,
    attention_function,
    attention_name,
    forward_hooks,
    global_forward_hooks,
    prompt_is_off,
    whole_weight,
)
from clair_apo.records import digest

# What a config says of names, files, generation and kernels; none of it enters a forward without
# cache. Kernels that may differ by more than rounding are read by `_attention`.
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
# The same of what libraries keep on their modules; names that begin with _ are theirs as well.
_NOT_OF_THE_MODULE = {
    "name_or_path",
    "generation_config",
    "kernel_config",
    "loss_type",
    "all_tied_weights_keys",
    "gradient_checkpointing",
    "hf_quantizer",
    "hf_device_map",
    "warnings_issued",
    "model_tags",
    "peft_config",
    "kwargs",
    "active_adapter",
    "merged_adapters",
}
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))

_PROMPT = {
    "peft_type",
    "num_virtual_tokens",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "prefix_projection",
    "encoder_hidden_size",
    "encoder_reparameterization_type",
    "encoder_num_layers",
}


class ModelFunction(NamedTuple):
    """The digest of what a model computes, and the code that it cannot cover."""

    digest: str
    """SHA-256 in hex."""
    unreadable: tuple[str, ...]
    """Code that may enter, and that the digest says nothing of; each in a few words."""


class Adapters(NamedTuple):
    """The adapters of one layer that act on it."""

    used: tuple[str, ...]
    """Those that are on or merged, in their order."""
    state: tuple[bool, bool]
    """Whether the layer is switched off, and whether anything is merged into its weights."""


def model_function(model: Any) -> ModelFunction:
    """The function that a model computes as it is set: adapters on or off, merged or not.

    Weights that are spread over processes are gathered one by one; all processes must call then.

    Args:
        model: plain, or with adapters; in training or in eval mode, which makes no difference.
    """
    return _Reader(extract_model_from_parallel(model, keep_torch_compile=False)).read()


def adapter_containers(model: Any) -> set[str]:
    """The names under which `peft` keeps weights by adapter: `...q_proj.lora_A`."""
    return {"prompt_encoder"} | {
        f"{name}.{layer}"
        for name, module in model.named_modules()
        for layer in adapter_attributes(module)
    }


def adapter_of(name: str, containers: set[str]) -> str | None:
    """The adapter that a weight is part of; None for the model itself."""
    parts = name.split(".")
    ends = (end for end in range(1, len(parts)) if ".".join(parts[:end]) in containers)
    end = next(ends, None)
    return None if end is None else parts[end]


def layer_adapters(module: Any) -> Adapters | None:
    """Which adapters act on a layer; None for a module that is no layer with adapters."""
    if not hasattr(module, "adapter_layer_names") or not hasattr(module, "disable_adapters"):
        return None
    held = [getattr(module, name, ()) for name in adapter_attributes(module)]
    there = {key for part in held if hasattr(part, "keys") for key in part}
    merged, off = list(module.merged_adapters), bool(module.disable_adapters)
    active = [] if off else list(module.active_adapters)
    used = tuple(name for name in (merged or active) if name in there or name in merged)
    return Adapters(used, (off, bool(merged)))


class _Reader:
    """Reads one model.

    Args:
        model: not wrapped.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._known = {id(module) for module in self._modules.values()}
        self._adapters = {
            name: found
            for name, module in self._modules.items()
            if (found := layer_adapters(module))
        }
        self._containers = adapter_containers(model)
        # base_model.model. before each name, or base_model. where nothing but a prompt is learnt
        self._floors = 0
        if isinstance(model, PeftModel):
            self._floors = 2 if isinstance(model.base_model, BaseTuner) else 1
        self._tensors: dict[Any, str] = {}
        self._configs: dict[int, str] = {}
        self._classes: dict[type, Any] = {}
        self._seen: set[int] = set()
        self._unreadable: list[str] = []

    def read(self) -> ModelFunction:
        found = digest([self._rows(), self._config(self._model), self._attention()])
        self._hooks("every module", global_forward_hooks())
        return ModelFunction(found, tuple(dict.fromkeys(self._unreadable)))

    def _rows(self) -> list[Any]:
        return sorted([*self._weights(), *self._parts()], key=json.dumps)

    # --- names

    def _place(self, name: str) -> str | None:
        """Where something belongs in a model without adapters; None for what is off."""
        parts, kept = name.split("."), []
        for position, part in enumerate(parts):
            before = ".".join(parts[:position])
            if before in self._containers:
                used = self._used(".".join(parts[: position - 1]))
                if part not in used:
                    return None
                part = f"#{used.index(part)}"
            kept.append(part)
        if self._floors and kept[0] not in ("", "base_model", "prompt_encoder"):
            return None  # an alias that peft holds
        return ".".join(part for part in kept[self._floors :] if part not in WRAPPED)

    def _used(self, layer: str) -> tuple[str, ...]:
        """The adapters that act on a layer, or at the root those that learn a prompt."""
        if layer in self._adapters:
            return self._adapters[layer].used
        model = self._model
        if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
            return ()
        return () if prompt_is_off(model) else (str(model.active_adapter),)

    # --- weights

    def _weights(self) -> Iterator[list[Any]]:
        named = dict(self._model.named_parameters(remove_duplicate=False))
        named |= self._model.named_buffers(remove_duplicate=False)
        # what is in neither: the state of quantized weights
        more = {k: v for k, v in self._model.state_dict(keep_vars=True).items() if k not in named}
        for name, value in (named | more).items():
            place = self._place(name)
            if place is not None:
                yield ["weight", place, self._value(value, name)]

    def _tensor(self, value: Tensor) -> list[Any]:
        if value.is_meta:
            return ["nowhere", str(value.dtype), list(value.shape)]
        if hasattr(value, "__tensor_flatten__") and not hasattr(value, "full_tensor"):
            names, context = value.__tensor_flatten__()
            parts = [self._tensor(getattr(value, name)) for name in names]
            return [type(value).__name__, str(context), parts]
        whole = whole_weight(value)
        storage = (whole.data_ptr(), whole.dtype, whole.shape, whole.stride())
        if whole is not value or storage not in self._tensors:  # tied weights are read once
            self._tensors[storage] = _tensor_digest(whole)
        return [str(whole.dtype), list(whole.shape), self._tensors[storage]]

    # --- modules

    def _parts(self) -> Iterator[list[Any]]:
        for name, module in self._modules.items():
            place = self._place(name)
            if place is None or name in self._containers:
                continue
            self._hooks(name or type(module).__name__, forward_hooks(module))
            if isinstance(module, PeftModel | BaseTuner):
                yield from self._prompt(name, module)
                continue
            adapters = self._adapters.get(name)
            if adapters is None or adapters.used:
                state = adapters.state if adapters else None
                yield ["module", place, state, self._class(module), self._held(name, module)]

    def _prompt(self, name: str, module: Any) -> Iterator[list[Any]]:
        if name == "" and self._used(""):
            config = module.active_peft_config.to_dict()
            yield ["prompt", {k: str(v) for k, v in config.items() if k in _PROMPT}]

    def _class(self, module: nn.Module) -> Any:
        """A module's class; of one that no library brings, the files that define it too."""
        if isinstance(module, (*DROPOUT, nn.Identity)):
            return "Identity"  # in eval mode
        kind = type(module)
        if kind not in self._classes:
            self._classes[kind] = [kind.__name__, *self._definitions(kind)]
        return self._classes[kind]

    def _definitions(self, kind: type) -> Iterator[Any]:
        for base in kind.__mro__[:-1]:
            if not is_library(base.__module__):
                yield self._source(base.__module__, f"the class {base.__name__}")
                continue
            for name, function in vars(base).items():
                if isinstance(function, types.FunctionType):
                    self._patched(f"{base.__name__}.{name}", function)
            forward = inspect.unwrap(vars(base).get("forward", base))
            if forward.__module__.split(".")[0] != base.__module__.split(".")[0]:
                yield [forward.__module__, forward.__qualname__]  # another library's kernels

    def _source(self, module: str, what: str) -> str:
        try:
            path = getattr(sys.modules[module], "__file__", None)
            return hashlib.sha256(Path(path or "").read_bytes()).hexdigest()
        except (KeyError, OSError):
            self._unreadable.append(f"{what} is defined in no file")
            return ""

    def _held(self, name: str, module: nn.Module) -> list[Any]:
        """What a module holds beside weights and modules."""
        library = is_library(type(module).__module__)
        adapters = self._adapters.get(name)
        used = adapters.used if adapters else ()
        found = []
        for key, value in vars(module).items():
            if key in _OF_EVERY_MODULE or "dropout" in key.lower():  # none in eval mode
                continue
            if library and (key.startswith("_") or key in _NOT_OF_THE_MODULE):
                continue
            if type(module) is nn.Embedding and key == "padding_idx":  # enters gradients alone
                continue
            if isinstance(module, DROPOUT):
                continue
            if adapters and isinstance(value, dict):
                value = [value[adapter] for adapter in used if adapter in value]
            if key == "forward":
                self._patched(f"{name}.forward", value)
            else:
                found.append([key, self._value(value, f"{name}.{key}")])
        return sorted(found, key=lambda pair: str(pair[0]))

    def _value(self, value: Any, where: str) -> Any:
        """Something that can be written as JSON, and that is the same for equal values."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        for kinds, read in self._readers():
            if isinstance(value, kinds):
                return read(value, where)
        if callable(value) and module_of(value) is not None:
            return self._code(value, where)
        return self._object(value, where)

    def _readers(self) -> tuple[tuple[Any, Callable[[Any, str], Any]], ...]:
        return (
            (Tensor, lambda v, _: self._tensor(v)),
            (np.ndarray, lambda v, _: self._tensor(torch.from_numpy(v.copy()))),
            (np.generic, lambda v, w: self._value(v.item(), w)),
            (PretrainedConfig, lambda v, _: self._config_digest(v)),
            (nn.Module, self._hidden),
            (torch.device | Path, lambda v, _: None),
            (torch.dtype | Enum, lambda v, _: str(v)),
            (Mapping, lambda v, w: sorted([str(k), self._value(x, w)] for k, x in v.items())),
            (list | tuple, lambda v, w: [self._value(x, w) for x in v]),
            (set | frozenset, lambda v, w: sorted(str(self._value(x, w)) for x in v)),
            (FUNCTIONS, self._code),
        )

    def _hidden(self, module: nn.Module, where: str) -> Any:
        """A module that is held where torch does not look for one."""
        if id(module) in self._known or id(module) in self._seen:
            return "module"
        self._seen.add(id(module))
        inside = _Reader(module)
        inside._seen = self._seen
        rows = inside._rows()
        self._unreadable += [f"{where}: {what}" for what in inside._unreadable]
        return digest(rows)

    def _object(self, value: Any, where: str) -> Any:
        kind = type(value)
        if is_library(kind.__module__) or id(value) in self._seen:
            return kind.__name__
        self._seen.add(id(value))
        held = sorted([k, self._value(v, where)] for k, v in getattr(value, "__dict__", {}).items())
        return [kind.__name__, self._source(kind.__module__, f"the class {kind.__name__}"), held]

    # --- code

    def _code(self, value: Any, where: str) -> Any:
        if isinstance(value, functools.partial):
            return [self._code(value.func, where), self._value([value.args, value.keywords], where)]
        self._patched(where, value)
        return getattr(value, "__qualname__", type(value).__name__)

    def _hooks(self, where: str, hooks: Iterable[Any]) -> None:
        for hook in hooks:
            self._patched(f"a hook on {where}", hook)

    def _patched(self, where: str, value: Any) -> None:
        """Name a function that is the user's own, or that wraps one."""
        if calls_users_code(value):
            self._unreadable.append(f"{where} is the user's own function")

    # --- configuration

    def _config(self, model: Any) -> Any:
        # under an adapter the model itself is two floors below
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        return [type(inner).__name__, self._config_digest(model.config)]

    def _config_digest(self, config: Any) -> str:
        if id(config) not in self._configs:
            self._configs[id(config)] = digest(_function_config(config))
        return self._configs[id(config)]

    def _attention(self) -> str | None:
        """The kernel, where it may differ from others by more than rounding."""
        bare = bare_model(self._model)
        name = attention_name(bare.config.get_text_config())
        function = attention_function(name)
        module = module_of(function)
        if module is not None and not is_library(module):
            self._patched(f"attn_implementation {name}", function)
        known = module is None or module.startswith("transformers.")
        return None if known and _attention_is_plain(bare) else str(name)


_NOT_OF_EVERY_KERNEL = (
    "attn_logit_softcapping",
    "attention_chunk_size",
    "keep_window_size",
    "alibi",
)
"""Settings that some kernels leave out."""


def _attention_is_plain(model: Any) -> bool:
    """Whether all kernels compute a model's attention alike, but for rounding."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    slides = (
        getattr(config, "sliding_window", None) is not None
        if kinds is None
        else any(kind != "full_attention" for kind in kinds)
    )
    odd = any(getattr(config, name, None) not in (None, False) for name in _NOT_OF_EVERY_KERNEL)
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    return not (slides or odd or sinks) and tree_obstacle(model) is None


def function_config(model: Any) -> dict[str, Any]:
    """A model's class, and what its configuration says of the function that the weights compute."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"class": type(inner).__name__, **_function_config(model.config)}


def _function_config(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = _without(json.loads(config.to_json_string(use_diff=False)))
    return found


def _without(value: Any) -> Any:
    if isinstance(value, list):
        return [_without(part) for part in value]
    if not isinstance(value, Mapping):
        return value
    return {
        k: _without(v)
        for k, v in value.items()
        if k not in _NOT_THE_FUNCTION and "dropout" not in k  # none in eval mode
    }


def _tensor_digest(value: Tensor) -> str:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
