"""Compares log-probs through trees with the model's own forward, before anything is trained.

The model's own forward, padded and with whole logits, is the standard: no kernel, head or hook of
ours or TRL's takes part in it. What is tried is the model as it is: in the dtype of the run, with
its adapters and hooks. Afterwards everything is as it was, random numbers included.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clair_apo.apo.forward.batching import take_pairs, uncut_reason
from clair_apo.apo.forward.cpu import fast_float32_products
from clair_apo.apo.forward.logps import model_inputs
from clair_apo.apo.forward.noise import random_numbers_kept
from clair_apo.apo.forward.shared_prefix import (
    bare_model,
    columns_beside_trees,
    shared_prefix_forward,
)
from clair_apo.apo.forward.tree import tree_sizes
from clair_apo.apo.trl_compat import forward_hooks, is_in_pieces
from clair_apo.errors import ClairApoError

PAIRS_CONSIDERED = 16
"""Of so many first pairs, those that are compared are chosen."""
MOST_TOKENS = 1024
"""Tokens of the pairs compared, both answers with their prompts; the shortest pair may have more.
"""
TOLERANCE_FP32 = 1e-3
"""Nats by which two log-probs of one token may differ, and the share of larger log-probs."""
TOLERANCE_HALF = 0.1
"""The same in bfloat16 and float16, for the root of the mean square over all tokens."""

_STARTING_VALUE = 0.02
_KNOWN_HOOKS = (
    "accelerate.",
    "bitsandbytes.",
    "deepspeed.",
    "liger_kernel.",
    "peft.",
    "torch.",
    "torchao.",
    "transformers.",
    "trl.",
)

Batches = Callable[[int], Mapping[str, Any]]
"""Makes a padded batch of so many first pairs of the data, on the model's device."""


class Agreement(NamedTuple):
    """The result of comparing two forwards of the same tokens."""

    tokens: int
    """Of answers, compared."""
    difference: float
    """Nats: the largest of a token, relative for log-probs beyond 1; in 16 bits the root of the
    mean square."""
    allowed: float
    fault: str | None = None
    """Why they were not compared, or differ for another reason than numbers."""

    def because(self, fault: str) -> Self:
        """This result, with a reason why the two do not agree."""
        return type(self)(self.tokens, self.difference, self.allowed, fault)

    @property
    def reason(self) -> str | None:
        """Why trees cannot be used; None where both forwards agree."""
        if self.fault is not None:
            return self.fault
        if self.difference <= self.allowed:
            return None
        return (
            f"log-probs of {self.tokens} tokens through shared beginnings differ from the model's "
            f"own forward by {self.difference:.2g} nats (allowed: {self.allowed:g})"
        )


def compare_layouts(model: Any, batches: Batches, device: torch.device) -> Agreement:
    """Compare trees with the model's own forward; the model stays as it is.

    Args:
        model: adapted or not, wrapped or not; where a forward of it needs all processes, all call.
        batches: of the data that the run is for.
        device: where the model computes.
    """
    hooked = foreign_hooks(model)
    found = _compared(model, batches, device, hooked)
    if found.reason is None or not hooked:
        return found
    names = ", ".join(sorted(hooked)[:3])
    return found.because(f"{found.reason}; you have hooks on {names}")


def _compared(
    model: Any,
    batches: Batches,
    device: torch.device,
    hooked: Mapping[str, nn.Module],
) -> Agreement:
    half = bare_model(model).dtype.itemsize < 4 or torch.is_autocast_enabled(device.type)
    stage = "a batch of the first pairs"
    try:
        with undisturbed(model, device, hooked.values()), _adapters_visible(model):
            pairs = few_pairs(batches)
            if columns := columns_beside_trees(model, pairs):
                return _failed(f"batches carry {columns[0]} for the model, which trees do not")
            stage = "the model's own forward"
            own = own_logps(model, pairs)
            stage = "the forward through shared beginnings"
            with fast_float32_products(device):
                trees = shared_prefix_forward(model, pairs, statistics=False)
    except ClairApoError as error:
        return _failed(str(error))
    except Exception as error:  # whatever it is, the model's own way is still there
        words = " ".join(str(error).split())[:200]
        return _failed(f"{stage} fails ({type(error).__name__}: {words})")
    return _agreement(torch.cat([trees.chosen.values, trees.rejected.values]), own, half)


def _failed(fault: str) -> Agreement:
    return Agreement(0, math.inf, 0.0, fault)


def _agreement(found: Tensor, wanted: Tensor, half: bool) -> Agreement:
    misses = (found.double() - wanted.double()).abs() / wanted.double().abs().clamp(min=1)
    if not len(misses):
        return Agreement(0, 0.0, 0.0)
    if half:
        return Agreement(len(misses), misses.square().mean().sqrt().item(), TOLERANCE_HALF)
    return Agreement(len(misses), misses.max().item(), TOLERANCE_FP32)


def few_pairs(batches: Batches) -> Mapping[str, Any]:
    """A batch of one or two pairs: the longest of the first that fit, else the shortest."""
    batch = batches(PAIRS_CONSIDERED)
    if uncut_reason(batch):
        return batches(1)
    sizes = (2 * torch.maximum(*batch["attention_mask"].bool().sum(1).chunk(2))).tolist()
    trees = tree_sizes(batch)
    order = sorted(range(len(sizes)), key=lambda pair: (-trees[pair], pair))
    fitting = [pair for pair in order if sizes[pair] <= MOST_TOKENS // 2]
    return take_pairs(batch, sorted(fitting[:2] or order[-1:]))


def own_logps(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Log-probs of every answer token from a model's own logits, chosen answers first.

    Args:
        model: wrapped or not.
        batch: a padded batch.
    """
    logits = model(**model_inputs(batch), use_cache=False).logits
    mask = batch["completion_mask"][:, 1:].bool()
    scored = logits[:, -mask.shape[1] - 1 : -1][mask]
    scored = scored.to(torch.promote_types(scored.dtype, torch.float32))
    return -F.cross_entropy(scored, batch["input_ids"][:, 1:][mask].long(), reduction="none")


def foreign_hooks(model: Any) -> dict[str, nn.Module]:
    """Modules with a forward hook, or a forward, of the user's own, by name."""
    found, bare = {}, bare_model(model)
    for name, module in model.named_modules():
        hooks = forward_hooks(module)
        if "forward" in module.__dict__ and module is not bare:  # there, TRL's fused head is
            hooks.append(module.forward)
        if any(map(_is_foreign, hooks)):
            found[name or type(module).__name__] = module
    return found


def _is_foreign(hook: Any) -> bool:
    hook = getattr(hook, "func", hook)  # of a partial
    home = str(getattr(hook, "__module__", "") or type(hook).__module__)
    return home.endswith(".neftune") or not f"{home}.".startswith(_KNOWN_HOOKS)


# --- nothing stays changed


@contextlib.contextmanager
def undisturbed(model: Any, device: torch.device, hooked: Iterable[nn.Module]) -> Iterator[None]:
    """Evaluate without gradient, with fixed random numbers, and leave no trace.

    Args:
        model: in training or not.
        device: its random numbers are kept too.
        hooked: modules whose hooks are to act as they do in training.
    """
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in hooked:
        module.training = True
    try:
        with random_numbers_kept(device), torch.no_grad():
            yield
    finally:
        for module, was in training:
            module.training = was


@contextlib.contextmanager
def _adapters_visible(model: Any) -> Iterator[None]:
    """Give weights that start at zero small values: a new adapter does nothing before it learns.

    Weights that are spread over processes are left alone.
    """
    generator = torch.Generator().manual_seed(0)
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for weight in model.parameters():
            if not weight.requires_grad or not _is_plain(weight) or weight.any():
                continue
            kept.append((weight.data, weight.data.clone()))
            noise = torch.rand(weight.shape, generator=generator) - 0.5
            weight.data.copy_(2 * _STARTING_VALUE * noise)
        yield
    finally:
        for data, before in kept:
            data.copy_(before)


def _is_plain(weight: Tensor) -> bool:
    whole = not weight.is_meta and not is_in_pieces(weight)
    return weight.is_floating_point() and weight.numel() > 0 and whole
