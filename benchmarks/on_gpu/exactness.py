"""Log-probs and gradients of one path, against separate forwards in float64 on the CPU.

The yardstick is the model's own forward of each sequence alone, in the same dtype on the same
device: a path may miss the truth by twice what that misses it by, and a little for rounding.
"""

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clair_apo.apo.forward.logps import padded_forward
from clair_apo.apo.forward.shared_prefix import shared_prefix_forward
from clair_apo.apo.trl_compat import add_fused_lm_head
from on_gpu.models import families, random_model
from on_gpu.paths import FLEX, PADDED, faults_of, only

LENGTHS = [(150, 40, 60, 0), (3, 130, 129, 60), (260, 1, 30, 0), (40, 200, 170, 33)]
"""Prompt, chosen, rejected and shared tokens of the pairs: parts beyond a block of 128, and one."""
FLOOR = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (1e-2, 2e-2)}
"""Rounding that is allowed beside the yardstick: in nats, and in shares of a gradient's norm."""


class Found(NamedTuple):
    """What a forward says, and the gradients of a sum of it."""

    logps: Tensor
    gradients: dict[str, Tensor]


def pairs() -> list[tuple[list[int], list[int], list[int]]]:
    """Token ids of prompt, chosen and rejected of each pair."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for prompt, chosen, rejected, shared in LENGTHS:
        beginning, *rest = (
            torch.randint(6, 512, (n,), generator=draw).tolist()
            for n in (shared, prompt, chosen - shared, rejected - shared)
        )
        found.append((rest[0], beginning + rest[1], beginning + rest[2]))
    return found


def batch(device: str) -> dict[str, Tensor]:
    """The pairs as TRL pads them: chosen answers first, then rejected ones."""
    given = pairs()
    sides = [(p, a) for p, a, _ in given] + [(p, a) for p, _, a in given]
    width = max(len(p) + len(a) for p, a in sides)
    columns = {name: [] for name in ("input_ids", "attention_mask", "completion_mask")}
    for prompt, answer in sides:
        filled = width - len(prompt) - len(answer)
        columns["input_ids"].append(prompt + answer + [0] * filled)
        columns["attention_mask"].append([1] * (width - filled) + [0] * filled)
        columns["completion_mask"].append([0] * len(prompt) + [1] * len(answer) + [0] * filled)
    return {name: torch.tensor(rows, device=device) for name, rows in columns.items()}


def separate(model: Any, device: str) -> Found:
    """Each sequence in a forward of its own."""
    found = []
    for side in (1, 2):
        for pair in pairs():
            prompt, answer = pair[0], pair[side]
            logits = model(torch.tensor([prompt + answer], device=device)).logits[0]
            logps = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
            found.append(logps[range(len(answer)), answer])
    return with_gradients(model, torch.cat(found), sum(map(len, found[: len(found) // 2])))


def by_path(model: Any, path: str, device: str, *, backward: bool) -> Found:
    """All pairs at once, by one path."""
    with contextlib.nullcontext() if backward else torch.no_grad():
        if path == PADDED:
            forward = padded_forward(model, batch(device))
        else:
            forward = shared_prefix_forward(model, batch(device), statistics=True)
        logps = torch.cat([forward.chosen.values, forward.rejected.values])
    if not backward:
        return Found(logps.double().cpu(), {})
    return with_gradients(model, logps, int(forward.chosen.lengths.sum()))


def with_gradients(model: Any, logps: Tensor, chosen: int) -> Found:
    """Log-probs, and the gradients of those of chosen minus half of those of rejected."""
    (logps[:chosen].sum() - logps[chosen:].sum() / 2).backward()
    gradients = {
        name: weight.grad.double().cpu()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad()
    return Found(logps.detach().double().cpu(), gradients)


def misses(found: Found, truth: Found) -> tuple[float, float]:
    """Root of the mean square of nats over tokens, and of the gradients' relative misses.

    The latter is over weights, each by its norm: one that is wrong shows beside all that are right,
    and the sums of one bias, which a batch adds in another order, do not decide.
    """
    nats = (found.logps - truth.logps).square().mean().sqrt().item()
    relative = [
        ((found.gradients[name] - true).norm() / true.norm()).item()
        for name, true in truth.gradients.items()
        if found.gradients and true.norm() > 0
    ]
    return nats, (sum(miss**2 for miss in relative) / max(len(relative), 1)) ** 0.5


def compare(config: Any, dtype: torch.dtype, path: str, device: str) -> dict[str, Any]:
    """One family in one dtype by one path: how far it misses, and what is wrong."""
    exact = random_model(config, "cpu", torch.float64)
    truth = separate(exact, "cpu")
    model = random_model(config, device, dtype)
    model.load_state_dict(exact.state_dict())  # not .to, which rounds rotary frequencies too
    own = misses(separate(model, device), truth)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    backward = not (path == FLEX and device == "cpu")
    with only(path) as calls:
        found = misses(by_path(model, path, device, backward=backward), truth)
    faults = faults_of(path, calls)
    for miss, yardstick, floor, what in zip(found, own, FLOOR[dtype], _WHAT, strict=True):
        if not miss <= 2 * yardstick + floor:
            faults.append(f"{what} miss by {miss:.2g}, separate forwards by {yardstick:.2g}")
    figures = dict(zip(_WHAT, found, strict=True)) | {"separate forwards": list(own)}
    if not backward:
        figures[_WHAT[1]] = "not on a CPU"
    return {"figures": figures, "faults": faults}


_WHAT = ("log-probs", "gradients")


def run(device: str, path: str, *, toy: bool) -> dict[str, Any]:
    """Three families in fp32 and bf16 by one path; on a CPU FlexAttention runs forward, eagerly."""
    if device == "cpu":
        torch.compiler.set_stance("force_eager")
    figures, faults = {}, []
    kinds = {"llama": families()["llama"]} if toy and path != PADDED else families()
    for name, config in kinds.items():
        for dtype in FLOOR:
            setting = f"{name} {'fp32' if dtype == torch.float32 else 'bf16'}"
            found = compare(config, dtype, path, device)
            figures[setting] = found["figures"]
            faults += [f"{setting}: {fault}" for fault in found["faults"]]
    return {**figures, "faults": faults}
