"""Compares a way through a model with the model's own forward, before anything is trained.

The model's own forward, padded and with whole logits, is the standard: no kernel, head or hook of
ours or TRL's takes part in it. What is tried is the model as it is: in the dtype of the run, with
its adapters and hooks. Two things must agree: the log-prob of every answer token, and the gradient
that a few weights get from them. Afterwards everything is as it was.
"""

import contextlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from clair_apo.apo.forward.attention import FLEX_ATTENTION, PER_BRANCH, SEQUENCES, attends_to_trees
from clair_apo.apo.forward.layout_measure import (
    Autocast,
    Batches,
    Measure,
    Measured,
    every_token_scored,
    few_pairs,
    few_weights,
    gradient_miss,
    leak,
    own_logps,
)
from clair_apo.apo.forward.logps import padded_forward
from clair_apo.apo.forward.shared_prefix import (
    bare_model,
    columns_beside_trees,
    shared_prefix_forward,
)
from clair_apo.apo.forward.undisturbed import undisturbed
from clair_apo.apo.trl_compat import forward_hooks, without_reducer
from clair_apo.errors import ClairApoError
from clair_apo.float32_products import fast_float32_products
from clair_apo.records import Record

PADDED = "padded"
WAYS = {
    FLEX_ATTENTION: "FlexAttention",
    PER_BRANCH: "attention per branch",
    SEQUENCES: "sequences without padding",
    PADDED: "padded rows",
}
"""Ways through a model, in words: trees by one kernel or the other, sequences one after another in
a row, and TRL's padding."""


class Tolerance(NamedTuple):
    """What two forwards that compute the same may differ by."""

    logps: float
    """Nats, and the share of log-probs beyond 1: the largest of a token, or in 16 bits the root of
    the mean square over all tokens."""
    gradients: float
    """The norm of the difference by that of the gradient: the largest of a weight, or in 16 bits
    the root of the mean square over all weights."""


# On a CPU eight families of tiny models (`tests/helpers/tiny_pairs.py`) differ by at most 2e-6 nats
# and 6e-6 in float32, and by 0.012 and 0.10 in bfloat16, of weights or by autocast: with weights
# five times as large as drawn. As drawn it is 0.0008 and 0.012 in bfloat16. Rounding grows with
# depth: the 30 layers of SmolLM2-135M differ by 3e-5 and 2e-4 in float32.
FP32 = Tolerance(logps=1e-3, gradients=5e-3)
HALF = Tolerance(logps=0.1, gradients=0.2)
"""In bfloat16 and float16, of weights or by autocast."""

MOST_LEAKED = 1e-6
"""Of `layout_measure.leak`."""
_LEAK = (
    "layers ignore where a sequence begins: the first tokens of one see the one before it in its "
    "row (kernels that heed it need CUDA)"
)
_HIDDEN = "FSDP1 and ZeRO-3 hold back the gradients that show whether layers heed where one begins"
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


class Agreement(Record):
    """One way through a model, compared with the model's own forward of the same tokens."""

    way: str
    """A key of `WAYS`."""
    model: str = ""
    """Which one it is; empty for the policy."""
    tokens: int = 0
    """Compared: of answers; of whole sequences, where those follow one another in a row."""
    difference: float | None = None
    """Of log-probs, as `Tolerance.logps`; None where that is no finite number."""
    allowed: float = 0.0
    weights: int = 0
    """Whose gradients were compared; 0 for a model that is not trained."""
    gradient_difference: float | None = None
    """As `Tolerance.gradients`; None where that is no finite number."""
    gradient_allowed: float = 0.0
    furthest: str = ""
    """The weight whose gradient differs most."""
    fault: str | None = None
    """Why nothing was compared, or what is wrong besides numbers."""

    def because(self, fault: str) -> Self:
        """This result, with a reason why the two do not agree."""
        return self.model_copy(update={"fault": fault})

    @property
    def _scored(self) -> str:
        return "tokens" if self.way == SEQUENCES else "answer tokens"

    @property
    def reason(self) -> str | None:
        """Why this way cannot be taken; None where both agree."""
        if self.fault is not None:
            return self.fault
        if self.tokens and not _within(self.difference, self.allowed):
            return (
                f"log-probs of {self.tokens} {self._scored} through {WAYS[self.way]} differ from "
                f"the model's own forward by {_number(self.difference)} nats (allowed: "
                f"{self.allowed:g})"
            )
        if self.weights and not _within(self.gradient_difference, self.gradient_allowed):
            return (
                f"gradients of {self.weights} weights through {WAYS[self.way]} differ from those "
                f"of the model's own forward by {_number(self.gradient_difference)} of their size "
                f"(allowed: {self.gradient_allowed:g}), most in {self.furthest}"
            )
        return None

    def __str__(self) -> str:
        found = (
            f"log-probs of {self.tokens} {self._scored} within {_number(self.difference)} nats of "
            f"the model's own forward (allowed: {self.allowed:g})"
        )
        if not self.weights:
            return found
        return (
            f"{found}, gradients of {self.weights} weights within "
            f"{_number(self.gradient_difference)} of their size (allowed: "
            f"{self.gradient_allowed:g})"
        )


def _within(difference: float | None, allowed: float) -> bool:
    return difference is not None and difference <= allowed


def _number(difference: float | None) -> str:
    return "NaN or infinity" if difference is None else f"{difference:.2g}"


def compare_layouts(
    model: Any,
    batches: Batches,
    device: torch.device,
    way: str,
    *,
    trained: bool,
    autocast: Autocast = contextlib.nullcontext,
) -> Agreement:
    """Compare a way through a model with its own forward; the model stays as it is.

    Args:
        model: adapted or not, wrapped or not; where a forward of it needs all processes, all call.
        batches: of the data that the run is for.
        device: where the model computes.
        way: a key of `WAYS`.
        trained: whether gradients are compared too. They are not where FSDP1 or ZeRO-3 hold them:
            the one keeps them in pieces of many weights, the other in its engine.
        autocast: as the run computes; entered anew for each forward, since casts without gradient
            would be used again in one with it.
    """
    hooked = foreign_hooks(model)
    found = _compared(model, batches, device, way, trained, autocast, hooked)
    if found.reason is None or not hooked:
        return found
    names = ", ".join(sorted(hooked)[:3])
    return found.because(f"{found.reason}; you have hooks on {names}")


def _compared(
    model: Any,
    batches: Batches,
    device: torch.device,
    way: str,
    trained: bool,
    autocast: Autocast,
    hooked: Mapping[str, nn.Module],
) -> Agreement:
    # a forward through DDP or an engine would wait for a backward of all weights
    model = without_reducer(model)
    stage = "a batch of the first pairs"
    try:
        pairs = few_pairs(batches)
        if way != PADDED and (columns := columns_beside_trees(model, pairs)):
            fault = f"batches carry {columns[0]} for the model, which trees do not"
            return Agreement(way=way, fault=fault)
        pairs = every_token_scored(pairs) if way == SEQUENCES else pairs
        with undisturbed(model, hooked.values()):
            weights = few_weights(model) if trained else {}
            if way == SEQUENCES and trained and not weights:
                return Agreement(way=way, fault=_HIDDEN)
            measure = Measure(pairs, weights, device, autocast)
            stage = "the model's own forward"
            own = measure(lambda: own_logps(model, pairs))
            stage = f"the forward or backward through {WAYS[way]}"
            with _attention(model, way), fast_float32_products(device):
                found = measure(lambda: _logps(model, pairs, way))
                leaked = _leaked(model, pairs, autocast) if way == SEQUENCES else 0.0
    except ClairApoError as error:
        return Agreement(way=way, fault=str(error))
    except Exception as error:  # whatever it is, the model's own way is still there
        words = " ".join(str(error).split())[:200]
        return Agreement(way=way, fault=f"{stage} fails ({type(error).__name__}: {words})")
    with autocast():
        half = bare_model(model).dtype.itemsize < 4 or torch.is_autocast_enabled(device.type)
    agreement = _agreement(way, found, own, half)
    return agreement if leaked <= MOST_LEAKED else agreement.because(_LEAK)


def _leaked(model: Any, pairs: Mapping[str, Any], autocast: Autocast) -> float:
    with autocast():
        return leak(bare_model(model), pairs, lambda: _logps(model, pairs, SEQUENCES))


def _attention(model: Any, way: str) -> contextlib.AbstractContextManager[None]:
    """Around forward and backward, as in training."""
    return contextlib.nullcontext() if way == PADDED else attends_to_trees(bare_model(model), way)


def _logps(model: Any, pairs: Mapping[str, Any], way: str) -> Tensor:
    if way == PADDED:
        found = padded_forward(model, pairs)
    else:
        found = shared_prefix_forward(model, pairs, statistics=False, kernel=way)
    return torch.cat([found.chosen.values, found.rejected.values])


def _agreement(way: str, found: Measured, own: Measured, half: bool) -> Agreement:
    allowed = HALF if half else FP32
    misses = (found.logps.double() - own.logps.double()).abs()
    misses /= own.logps.double().abs().clamp(min=1)
    if not len(misses):
        return Agreement(way=way)
    difference = misses.square().mean().sqrt() if half else misses.max()
    found_logps = Agreement(
        way=way,
        tokens=len(misses),
        difference=_finite(difference.item()),
        allowed=allowed.logps,
    )
    if not own.gradients:
        return found_logps
    miss = gradient_miss(found.gradients, own.gradients)
    gradients = {
        "weights": len(own.gradients),
        "gradient_difference": _finite(miss.root_mean_square if half else miss.largest),
        "gradient_allowed": allowed.gradients,
        "furthest": miss.furthest,
    }
    return found_logps.model_copy(update=gradients)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


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
