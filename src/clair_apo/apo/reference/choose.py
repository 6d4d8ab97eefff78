"""Which reference a run has: `initial`, `base`, a path, or the model that was passed as one.

Knows which models there are and which must be loaded; not what they say.
"""

import contextlib
import copy
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel, PeftType
from transformers import AutoModelForCausalLM, PreTrainedModel
from trl.trainer.dpo_config import DPOConfig

from clair_apo.apo.config import BASE, INITIAL
from clair_apo.apo.forward.row_runner import RowTrainer
from clair_apo.apo.reference.fingerprint import trained_base_weights
from clair_apo.apo.reference.model_function import ModelFunction, model_function
from clair_apo.apo.reference.storage import cache_path
from clair_apo.apo.trl_compat import (
    REFERENCE_ADAPTER,
    attention_name,
    is_deepspeed_zero3_enabled,
    use_adapter,
)
from clair_apo.errors import ConfigError, TrainingError
from clair_apo.models import find_model


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


def unwrapped_policy(trainer: RowTrainer) -> Any:
    """The policy with its adapters; under FSDP the trainer's own model is the wrapper."""
    return trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)


def reference_adapter_name(trainer: RowTrainer) -> str | None:
    """The adapter that is the reference: `ref`, TRL's frozen copy; None where all are off."""
    adapters = unwrapped_policy(trainer).peft_config
    from_base = getattr(trainer.args, "reference", INITIAL) == BASE
    return REFERENCE_ADAPTER if REFERENCE_ADAPTER in adapters and not from_base else None


@contextlib.contextmanager
def reference_adapter(trainer: RowTrainer) -> Iterator[None]:
    """While it holds, the trainer's model is its reference; nothing to do for one without adapter.

    A reference model of its own, where there is one, is not touched.
    """
    policy = unwrapped_policy(trainer)
    with contextlib.ExitStack() as switched:
        if trainer.ref_model is None and isinstance(policy, PeftModel):
            with warnings.catch_warnings():
                # peft's word on trained biases; `why_policy_moved` sees to them
                warnings.filterwarnings("ignore", message="Careful, disabling adapter layers")
                switched.enter_context(use_adapter(policy, reference_adapter_name(trainer)))
        yield


def why_policy_moved(trainer: RowTrainer) -> str | None:
    """Why a policy is not its own reference any more once it trains; None where it stays that.

    It stays where the adapter is all that trains: then it is switched off, or a copy of it on.
    """
    policy = unwrapped_policy(trainer)
    if not isinstance(policy, PeftModel):
        return "the policy has been trained"
    trained = trained_base_weights(policy)
    if not trained:
        return None
    return f"{len(trained)} weights below the adapter are trained with it ({trained[0]} is one)"


logger = logging.getLogger(__name__)


@dataclass
class ReferenceChoice:
    """Where the reference is, before the trainer is made."""

    args: DPOConfig
    """With `precompute_ref_log_probs` decided."""
    model: Any
    """A model of its own; None where the reference is the policy, with or without its adapter."""
    is_initial_policy: bool
    """Whether all rewards must be 0 before the first step."""
    cache: Path
    """Its folder."""
    function: ModelFunction | None
    """Of `model`, read while it is whole; None where it is not needed."""
    reload: Callable[[], Any] | None
    """Loads `model` again, where it was loaded for this run alone and goes once it has answered."""


def choose_reference(
    model: Any, ref_model: Any, args: DPOConfig, train_dataset: Any, new_adapter: bool
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
    name = getattr(args, "reference", INITIAL)
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
        cache=cache_path(getattr(args, "reference_cache", None)),
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


_FROM_OUTSIDE = (PeftType.XLORA, PeftType.POLY)


def _with_precompute_decided(args: DPOConfig, train_dataset: Any) -> DPOConfig:
    if args.precompute_ref_log_probs is not None:
        return args
    has_length = isinstance(train_dataset, Dataset)
    images = has_length and {"image", "images"} & set(train_dataset.column_names)
    args = copy.copy(args)  # the same settings may serve a stream next
    args.precompute_ref_log_probs = has_length and not images and not args.sync_ref_model
    return args


def _loader(name: str, model: Any, args: DPOConfig) -> Callable[[], Any]:
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


def finish_choice(trainer: Any, choice: ReferenceChoice) -> None:
    """Give batches their reference, and let go of what is not needed, once the trainer is made."""
    from_base = getattr(trainer.args, "reference", INITIAL) == BASE
    if from_base and REFERENCE_ADAPTER in trainer.model.peft_config:
        trainer.model.delete_adapter(REFERENCE_ADAPTER)  # TRL would take it for the reference
    if trainer.precompute_ref_logps:
        trainer.data_collator = trainer.reference_cache.collate(trainer.data_collator)
        trainer.ref_model = None if choice.reload else trainer.ref_model
