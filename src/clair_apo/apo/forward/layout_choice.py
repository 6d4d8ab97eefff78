"""Decides from settings and model whether pairs may share their beginning, and if not, why.

`pair_layout: auto` takes TRL's padded layout for the first of them and says which, but where all
that is wrong is that layers have a state or a convolution: then sequences may still follow one
another in a row. `shared_prefix` by name refuses.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from clair_apo.apo.config import APOConfig
from clair_apo.apo.forward.attention import SEQUENCES
from clair_apo.apo.forward.shared_prefix import bare_model, scores_with_trls_head
from clair_apo.apo.objectives import OBJECTIVES
from clair_apo.apo.trl_compat import BatchNorm, is_peft_model, is_stateful, takes_attention
from clair_apo.errors import ConfigError


class LayoutChoice(NamedTuple):
    """How a run lays out its pairs."""

    layout: str
    """`shared_prefix`, `sequences` or `padded`."""
    reason: str | None
    """Why it is padded, where that was not asked for."""
    shares_nothing: str | None = None
    """Why `sequences` share nothing."""


def choose_layout(args: APOConfig, model: Any, *, sees_images: bool = False) -> LayoutChoice:
    """Choose the layout from settings and model alone.

    Args:
        args: `pair_layout`, and all that rules shared beginnings out.
        model: adapted or not, with weights or on the meta device.
        sees_images: whether it is given images.

    Raises:
        ConfigError: `shared_prefix` was asked for by name, and cannot be used.
    """
    asked = args.pair_layout
    if asked == "padded":
        return LayoutChoice("padded", None)
    bare = bare_model(model)
    obstacle = tree_obstacle(bare, args.max_length)
    in_rows = asked == "auto" and sequence_obstacle(bare, args.max_length) is None
    reason = (
        _loss_of_trls_alone(args, model)
        or ("the model sees images" if sees_images else None)
        or _settings(args)
        or _adapter(model)
        or (None if in_rows else obstacle)
        or _counting_adapter(model)
        or reads_whole_batches(args, model)
    )
    if reason and asked == "shared_prefix":
        raise refused(reason)
    if obstacle and not reason:
        return LayoutChoice(SEQUENCES, None, obstacle)
    return LayoutChoice("padded" if reason else "shared_prefix", reason)


def refused(reason: str) -> ConfigError:
    """The error where `shared_prefix` was asked for by name, and cannot be used."""
    return ConfigError(f"pair_layout shared_prefix: {reason}; set pair_layout to auto")


def computes_pairs(args: APOConfig, model: Any) -> bool:
    """Whether objective and log-ratios are ours, not left to TRL.

    Args:
        args: of the run.
        model: adapted or not.
    """
    return _loss_of_trls_alone(args, model) is None


def check_computes_pairs(
    args: APOConfig, model: Any, wanted: str, *, own_loss: bool = False
) -> None:
    """Refuse something that only losses of ours heed, where TRL has the loss.

    Args:
        args: of the run.
        model: adapted or not.
        wanted: what it is, for the error.
        own_loss: whether a subclass computes the loss.

    Raises:
        ConfigError: says why the loss is not ours.
    """
    overridden = "_compute_loss is overridden" if own_loss else None
    if reason := overridden or _loss_of_trls_alone(args, model):
        raise ConfigError(f"{wanted} would be ignored: {reason}; leave one of them out")


def _loss_of_trls_alone(args: APOConfig, model: Any) -> str | None:
    foreign = [name for name in args.loss_type if name not in OBJECTIVES]
    if foreign:
        return f"loss_type {foreign[0]} is computed by TRL"
    options = {
        "f_divergence_type": args.f_divergence_type != "reverse_kl",
        "ld_alpha": args.ld_alpha is not None,
        "use_weighting": args.use_weighting,
    }
    for name, is_set in options.items():
        if is_set:
            return f"{name} {getattr(args, name)} is TRL's alone"
    if _has_auxiliary_loss(args, model):
        return (
            "the mixture-of-experts auxiliary loss is TRL's alone; router_aux_loss_coef 0 omits it"
        )
    return None


def _has_auxiliary_loss(args: APOConfig, model: Any) -> bool:
    """What TRL's `aux_loss_enabled` says once there is a trainer."""
    config = model.config.get_text_config()
    weight = args.router_aux_loss_coef
    if weight is None:
        weight = getattr(config, "router_aux_loss_coef", 0.0)
    return hasattr(config, "output_router_logits") and weight != 0


def _settings(args: APOConfig) -> str | None:
    if args.pad_to_multiple_of is not None:
        return f"pad_to_multiple_of {args.pad_to_multiple_of} asks for padding"
    if args.torch_compile:
        return "torch_compile would compile every row anew"
    return None


def _adapter(model: Any) -> str | None:
    if is_peft_model(model) and model.active_peft_config.is_prompt_learning:
        return "the adapter learns a prompt, which every sequence begins with"
    return None


def _counting_adapter(model: Any) -> str | None:
    for adapter in model.peft_config.values() if is_peft_model(model) else ():
        if getattr(adapter, "alora_invocation_tokens", None):
            return "the adapter counts tokens from the end of each sequence (alora)"
    return None


def reads_whole_batches(args: APOConfig, model: Any) -> str | None:
    """What makes a forward depend on the shape of its batch; None if nothing is known to.

    Such a run is padded, and its batches are not cut into rows.

    Args:
        args: `neftune_noise_alpha`.
        model: adapted or not.
    """
    if args.neftune_noise_alpha:
        return "neftune_noise_alpha scales its noise by the length of a padded batch"
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm):
            return f"{name} takes statistics over all tokens of a padded batch"
    return None


def half_precision_warning(model: torch.nn.Module) -> str | None:
    """What to say of trainable weights that are held in 16 bits; None if there are none.

    Args:
        model: adapted or not. Adapters of a quantized model do not count: 16 bits are their rule.
    """
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        return None
    trained = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    half = [name for name, weight in trained if weight.dtype.itemsize < 4]
    if not half:
        return None
    return (
        f"{len(half)} trainable weights are held in 16 bits, the first is {half[0]}: updates under "
        "1/256 of a weight are lost. Load the model with dtype float32; bf16 computes in bfloat16 "
        "all the same"
    )


def tree_obstacle(model: PreTrainedModel, longest: int | None = None) -> str | None:
    """Why a model cannot attend over trees exactly, as far as settings tell; None if it can.

    Args:
        model: neither wrapped nor adapted.
        longest: tokens that no answer with its prompt exceeds (`max_length`), where that is known.
    """
    config: Any = model.config.get_text_config()
    obstacles = _OBSTACLES + _OBSTACLES_TO_SHARING
    known = next((reason for wrong, reason in obstacles if wrong(model, config)), None)
    return known or _other_layers(config) or _changing_positions(config, longest)


def sequence_obstacle(model: PreTrainedModel, longest: int | None = None) -> str | None:
    """Why the sequences of a model's pairs cannot follow one another in a row; None if they may.

    They may where nothing but a state or convolutions keeps pairs from sharing their beginning.
    Whether its layers heed where a sequence begins, only a comparison tells.

    Args:
        model: neither wrapped nor adapted.
        longest: as for `tree_obstacle`.
    """
    config: Any = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if not (is_stateful(model) or kinds - set(_LAYERS_OF_TREES)):
        return "every layer can share"
    if unknown := sorted(kinds.difference(_LAYERS_OF_TREES, _LAYERS_OF_SEQUENCES)):
        return f"layers are of the kind {unknown[0]}"
    known = (reason for wrong, reason in _OBSTACLES if wrong(model, config))
    return next(known, None) or _changing_positions(config, longest)


_LAYERS_OF_SEQUENCES = ("conv", "hybrid", "linear_attention", "moe")
_LAYERS_OF_TREES = ("attention", "full_attention", "sliding_attention")


def _other_layers(config: Any) -> str | None:
    kinds = getattr(config, "layer_types", None) or ()
    others = [str(kind) for kind in kinds if kind not in _LAYERS_OF_TREES]
    if not others:
        return None
    return f"{len(others)} of its {len(kinds)} layers are of the kind {others[0]}, not attention"


def _changing_positions(config: Any, longest: int | None) -> str | None:
    """Rotary positions that change with the longest sequence of a batch."""
    for kind, limit in _length_limits(config):
        if longest is None or limit is None or longest > limit:
            below = "" if limit is None else f" beyond {limit} tokens; set max_length to {limit}"
            return f"rotary positions ({kind}) change with the longest sequence of a batch{below}"
    return None


def _length_limits(config: Any) -> Iterator[tuple[str, int | None]]:
    """Kinds of rotary positions that follow the length, and up to where they do not."""
    rope = getattr(config, "rope_parameters", None) or {}
    for part in [rope, *(part for part in rope.values() if isinstance(part, Mapping))]:
        kind = part.get("rope_type")
        if kind in ("dynamic", "longrope"):
            trained = part.get("original_max_position_embeddings")
            if kind == "dynamic":  # grows from the length that the configuration names
                trained = config.max_position_embeddings
            yield kind, trained


def _has(name: str, *neutral: Any) -> Callable[[Any, Any], bool]:
    return lambda _, config: getattr(config, name, None) not in (None, False, *neutral)


def _takes_positions(model: Any, _: Any) -> bool:
    return "position_ids" in inspect.signature(type(model.base_model).forward).parameters


def _head_is_plain(model: Any, _: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and bool(head.weight.is_floating_point())


def _head_is_gone_backward(model: Any, _: Any) -> bool:
    head = model.get_output_embeddings()
    in_engine = head is not None and hasattr(head.weight, "ds_id")
    return in_engine and not scores_with_trls_head(head.weight.device)


_OBSTACLES: tuple[tuple[Callable[[Any, Any], bool], str], ...] = (
    (lambda model, config: bool(config.is_encoder_decoder), "the model has an encoder"),
    (
        _head_is_gone_backward,
        "DeepSpeed ZeRO-3 takes the weight of its head away before the backward pass, where TRL's "
        "fused head is not at hand",
    ),
    (_has("attention_chunk_size"), "the model attends in chunks"),
    (_has("keep_window_size"), "the model picks the keys that a token attends to by itself"),
    (_has("alibi"), "positions enter the model as distances in the row (ALiBi)"),
    (lambda model, config: not getattr(config, "is_causal", True), "attention is not causal"),
    (lambda model, config: not _head_is_plain(model, config), "its head is quantized or missing"),
)
_OBSTACLES_TO_SHARING: tuple[tuple[Callable[[Any, Any], bool], str], ...] = (
    (
        lambda model, config: is_stateful(model),
        "the model carries a state from token to token",
    ),
    (
        lambda model, config: not takes_attention(model),
        "its attention is not replaceable through transformers",
    ),
    (
        lambda model, config: not _takes_positions(model, config),
        "the model takes no position_ids",
    ),
)
