"""Decides which model is the reference: `initial`, `base`, a path, or `ref_model`."""

import copy
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel, PeftType
from transformers import AutoModelForCausalLM, PreTrainedModel

from clair_apo.apo.config import BASE, INITIAL, APOConfig
from clair_apo.apo.reference.model_function import ModelFunction, model_function
from clair_apo.apo.reference.storage import cache_path
from clair_apo.apo.trl_compat import (
    attention_name,
    is_deepspeed_zero3_enabled,
)
from clair_apo.errors import ConfigError, TrainingError
from clair_apo.models import find_model

_FROM_OUTSIDE = (PeftType.XLORA, PeftType.POLY)

logger = logging.getLogger(__name__)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model as it is now, that no training step reaches.

    Raises:
        TrainingError: the weights are spread by DeepSpeed ZeRO-3 and cannot be copied.
    """
    if is_deepspeed_zero3_enabled():
        raise TrainingError(
            "under DeepSpeed ZeRO-3 a model cannot be copied as its own reference: pass the model "
            "by name, pass ref_model, or set precompute_ref_log_probs"
        )
    reference = copy.deepcopy(model)
    reference.requires_grad_(False)
    reference.eval()
    return reference


@dataclass
class ReferenceChoice:
    """The reference of a run, chosen before the trainer is made."""

    args: APOConfig
    """The settings, with `precompute_ref_log_probs` decided."""
    model: Any
    """A model of its own; None where the reference is the policy, with or without its adapter."""
    is_initial_policy: bool
    """Whether all rewards must be 0 before the first step."""
    cache: Path
    """The folder of the reference cache."""
    function: ModelFunction | None
    """Of `model`, read while it is whole; None where it is not needed."""
    reload: Callable[[], Any] | None
    """Loads `model` again, where it was loaded for this run alone and goes once it has answered."""


def choose_reference(
    model: Any, ref_model: Any, args: APOConfig, train_dataset: Any, new_adapter: bool
) -> ReferenceChoice:
    """Decide what the reference is, and load or copy it where it cannot be the policy itself.

    Args:
        model: the policy, or its name.
        ref_model: a reference that was passed.
        args: `reference` and `precompute_ref_log_probs`.
        train_dataset: decides whether the reference can be computed beforehand.
        new_adapter: whether the policy gets an adapter that it has not yet.

    Raises:
        ConfigError: `reference` contradicts what was passed.
        ModelNotFoundError: `reference` names no model.
    """
    name = args.reference
    trained_adapter = not isinstance(model, str) and isinstance(model, PeftModel)
    if name == BASE and not (new_adapter or trained_adapter):
        raise ConfigError(
            "reference: base is the model without its adapter, and this policy has none; use "
            "initial, or name a folder"
        )
    if name != INITIAL and ref_model is not None:
        raise ConfigError(f"reference: {name} and a ref_model were both given; take one")
    args = _with_precompute_decided(args, train_dataset)
    load = None if name in (INITIAL, BASE) else _loader(name, model, args)
    if load is not None:
        ref_model = load()
    if isinstance(ref_model, PeftModel):
        ref_model = _inside(ref_model)
    passed = ref_model is not None
    adapter = new_adapter or trained_adapter
    # without a copy, TRL would load the reference by the model's name, whatever was passed
    if not (passed or adapter or args.precompute_ref_log_probs or isinstance(model, str)):
        logger.info("a frozen copy of the policy is held as its reference")
        ref_model = frozen_copy(model)
    function = model_function(ref_model) if passed and args.precompute_ref_log_probs else None
    return ReferenceChoice(
        args=args,
        model=ref_model,
        is_initial_policy=not passed and (name == INITIAL or not trained_adapter),
        cache=cache_path(args.reference_cache),
        function=function,
        reload=functools.partial(_load_again, name, load, function) if load and function else None,
    )


def _inside(reference: PeftModel) -> Any:
    """The model that an adapter changes, with the adapter in it: TRL adds its head to that alone.

    Raises:
        ConfigError: the adapter acts from outside of the model.
    """
    adapters: list[Any] = [reference.peft_config[name] for name in reference.active_adapters]
    for adapter in adapters:
        outside = adapter.is_prompt_learning or adapter.peft_type in _FROM_OUTSIDE
        if outside or getattr(adapter, "alora_invocation_tokens", None):
            raise ConfigError(
                f"ref_model: its adapter ({adapter.peft_type.value}) acts from outside of the "
                "model, on prompts or on whole sequences, which cannot be scored as a reference; "
                "pass a ref_model without it, or with the adapter merged"
            )
    return reference.get_base_model()


def _with_precompute_decided(args: APOConfig, train_dataset: Any) -> APOConfig:
    if args.precompute_ref_log_probs is not None:
        return args
    has_length = isinstance(train_dataset, Dataset)
    images = has_length and {"image", "images"} & set(train_dataset.column_names)
    args = copy.copy(args)  # the same settings may serve a stream next
    args.precompute_ref_log_probs = has_length and not images and not args.sync_ref_model
    return args


def _loader(name: str, model: Any, args: APOConfig) -> Callable[[], Any]:
    """Loads a model by name, in the dtype of the policy."""
    location = find_model(name).location
    given: Any = args.model_init_kwargs or {}
    options = {"dtype": "float32", **given}
    options.pop("revision", None)  # of the policy's name
    if not isinstance(model, str):
        options |= {"dtype": model.dtype, "attn_implementation": attention_name(model.config)}

    def load() -> Any:
        try:
            found = AutoModelForCausalLM.from_pretrained(location, **options)
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:400]
            raise ConfigError(f"reference: {name} cannot be loaded ({reason})") from None
        return found.requires_grad_(False).eval()

    return load


def _load_again(name: str, load: Callable[[], Any], function: ModelFunction) -> Any:
    found = load()
    if model_function(found).digest != function.digest:
        raise TrainingError(
            f"reference: {name} holds other weights than when this run began, so it cannot be "
            "asked about pairs that are not in the reference cache"
        )
    return found
