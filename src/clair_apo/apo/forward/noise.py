"""Random numbers of training mode: where they come from, and how to be without them."""

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn

DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_STARTS_ELSEWHERE = ("init_lora_weights", "init_weights")


def switch_off_dropout(model: Any) -> None:
    """Set the dropout that modules hold as a number to 0, which TRL's `disable_dropout` leaves.

    Attention hands such a rate to its kernel. The configuration stays what it was: it is saved
    with the model.

    Args:
        model: policy or reference; None does nothing.
    """
    for module in model.modules() if model is not None else ():
        for name in _rates(module):
            if "dropout" in name or name.endswith("pdrop"):
                setattr(module, name, 0.0)


@contextlib.contextmanager
def in_eval_mode(*models: Any) -> Iterator[None]:
    """While it holds, no module of the models is in training mode; afterwards each is as before."""
    trained = [part for model in models for part in model.modules() if part.training]
    for part in trained:
        part.training = False
    try:
        yield
    finally:
        for part in trained:
            part.training = True


@contextlib.contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Draw the same random numbers every time, and leave the generators as they were.

    Args:
        device: one with a generator of its own is kept as well.
    """
    python, numpy = random.getstate(), np.random.get_state()  # collators may draw
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(0)
            np.random.seed(0)
            torch.default_generator.manual_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def learns_a_prompt(model: Any) -> bool:
    """Whether the adapter of a policy is a prompt, which does not start at zero."""
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def noise_sources(args: Any, model: Any) -> list[str]:
    """What makes a forward in training mode random, each with the setting that ends it.

    Args:
        args: of the run.
        model: the policy, not wrapped.
    """
    found = dict.fromkeys(_of_modules(model))
    if args.neftune_noise_alpha:
        found[f"neftune_noise_alpha {args.neftune_noise_alpha:g} (leave it out)"] = None
    config = model.config.get_text_config().to_dict()
    for name, value in config.items():
        if _is_rate(value) and ("dropout" in name or "layerdrop" in name) and not found:
            # some models read it there, in every forward
            found[f"{name} {value:g} of the configuration ({_to_zero(name)})"] = None
    return list(found)


def starts_elsewhere(model: Any) -> list[str]:
    """What keeps an adapter from starting at zero, each with what to do."""
    if not isinstance(model, PeftModel):
        return []
    config: Mapping[str, Any] = model.active_peft_config.to_dict()
    found = [
        f"the adapter's {name} is {config[name]}, with which it does not start at zero: set it to "
        "true, or give the reference a model of its own (reference: PATH, or ref_model)"
        for name in _STARTS_ELSEWHERE
        if config.get(name) not in (None, True, "gaussian")
    ]
    return found


def _of_modules(model: Any) -> Iterator[str]:
    for module in model.modules():
        if isinstance(module, DROPOUT) and module.p > 0:
            yield f"dropout layers, {module.p:g} (disable_dropout true)"
        for name, rate in _rates(module).items():
            if "dropout" in name or name.endswith("pdrop"):
                yield f"{name} {rate:g} (disable_dropout true, or {_to_zero(name)})"
            elif "jitter" in name or "noise" in name:
                yield f"the router's {name} {rate:g} ({_to_zero(_OF_THE_ROUTER.get(name, name))})"
            elif "layerdrop" in name or "drop_path" in name:
                yield f"{name} {rate:g}, which leaves out layers ({_to_zero(name)})"


# the field of the configuration, where a module calls it otherwise
_OF_THE_ROUTER = {"router_jitter": "router_jitter_noise", "jitter_noise": "router_jitter_noise"}


def _to_zero(field: str) -> str:
    return f"model_init_kwargs: {{{field}: 0}}"


def _rates(module: nn.Module) -> dict[str, float]:
    """Numbers above 0 that a module holds under names of noise."""
    words = ("dropout", "pdrop", "layerdrop", "drop_path", "jitter", "noise")
    return {
        name: value
        for name, value in vars(module).items()
        if _is_rate(value) and any(word in name for word in words)
    }


def _is_rate(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and value > 0
