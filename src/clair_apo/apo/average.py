"""The weighted mean of models: checkpoints of one run, or a trained model and an earlier one.

Averaging the last checkpoints smooths what the last batches did; mixing a little of an earlier
model back in (SmolLM3's recipe: 0.9 of the aligned one) recovers what alignment cost elsewhere.
Both are means of weights, name by name; an adapter is merged into its model first, since the mean
of two adapters' factors is not the adapter of the mean.
"""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from clair_apo.apo.adapters import ADAPTER_FILE, load_policy
from clair_apo.apo.checkpoints import NOTE, incomplete_reason
from clair_apo.apo.reference.model_function import function_config, model_function
from clair_apo.errors import ConfigError
from clair_apo.models import find_model
from clair_apo.records import Record
from clair_apo.run_folder import now, package_versions, write_json

SUM_TOLERANCE = 1e-6
"""By how much the weights may miss a sum of 1: decimal fractions do."""

logger = logging.getLogger(__name__)


class AveragedModel(Record):
    """A model that went into a mean."""

    name: str
    """The folder or name that the user gave."""
    weight: float
    digest: str
    """SHA-256 of its weights in float32, its adapter merged."""


def average_models(
    names: Sequence[str], output_dir: Path, weights: Sequence[float] | None = None
) -> tuple[AveragedModel, ...]:
    """Write the weighted mean of models, with the tokenizer of the first and in its dtype.

    The mean is taken in float32, one model in memory beside it, and stays so where the first is an
    adapter. `average.json` in the new folder says what it was made of. Equal models give
    themselves, bit for bit.

    Args:
        names: folders, hub names or `smollm2-135m`, at least two; folders may hold adapters.
        output_dir: the new folder; it appears whole or not at all.
        weights: one for each model, none negative, with a sum of 1; equal by default.

    Raises:
        ConfigError: the weights, a folder that is there, or models that do not fit together.
        ModelNotFoundError: a name that leads to no model.
    """
    shares = _checked_weights(names, weights)
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ConfigError(f"{output_dir} is not empty; name another output_dir")
    places = [find_model(name).location for name in names]
    for place in places:
        fault = incomplete_reason(Path(place)) if (Path(place) / NOTE).exists() else None
        if fault is not None:
            raise ConfigError(f"{place} is no complete checkpoint: {fault}; leave it out")
    mean = _load(places[0])
    averaged = [AveragedModel(name=names[0], weight=shares[0], digest=model_function(mean).digest)]
    total = shares[0]
    for name, place, share in list(zip(names, places, shares, strict=True))[1:]:
        other = _load(place)
        _check_fit(mean, other, names[0], name)
        _check_vocabulary(places[0], place, name)
        averaged.append(AveragedModel(name=name, weight=share, digest=model_function(other).digest))
        total += share
        if share:
            _move_towards(mean, other, share / total)
    _write(mean.to(_stored_dtype(places[0])), places[0], output_dir, averaged)
    return tuple(averaged)


def weights_from_text(text: str) -> list[float]:
    """Read `0.9,0.1`.

    Raises:
        ConfigError: not numbers with commas between them.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"weights must be numbers such as 0.9,0.1, got {text!r}") from None


def _checked_weights(names: Sequence[str], weights: Sequence[float] | None) -> list[float]:
    if len(names) < 2:
        raise ConfigError(f"a mean needs two models or more, got {len(names)}")
    shares = [1 / len(names)] * len(names) if weights is None else list(weights)
    if len(shares) != len(names):
        raise ConfigError(f"weights: {len(names)} models need as many weights, got {len(shares)}")
    if any(not share >= 0 for share in shares) or not abs(sum(shares) - 1) < SUM_TOLERANCE:
        raise ConfigError(
            f"weights must be 0 or more with a sum of 1, got {', '.join(map(str, shares))} "
            f"(sum {sum(shares):g})"
        )
    return shares


def _load(place: str) -> Any:
    """A model in float32, its adapter merged."""
    policy = load_policy(place)
    if policy.model is not place:
        return policy.model.merge_and_unload()
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)


def _tensors(model: Any) -> dict[str, Tensor]:
    """Parameters and buffers by name; tied weights once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _check_fit(mean: Any, other: Any, first: str, name: str) -> None:
    mine, theirs = (dict(_flat(function_config(model))) for model in (mean, other))
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise ConfigError(
                f"{first} and {name} are different models: {key} is {mine.get(key)!r} in one and "
                f"{theirs.get(key)!r} in the other"
            )
    here, there = _tensors(mean), _tensors(other)
    for key in sorted(here.keys() | there.keys()):
        if key not in here or key not in there or here[key].shape != there[key].shape:
            raise ConfigError(f"{first} and {name} differ in their weight {key}")


def _flat(value: Any, prefix: str = "") -> Any:
    if not isinstance(value, dict):
        yield prefix or "architecture", value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{prefix}.{key}" if prefix else key)


def _check_vocabulary(first: str, place: str, name: str) -> None:
    try:
        mine, theirs = (AutoTokenizer.from_pretrained(p).get_vocab() for p in (first, place))
    except (OSError, ValueError):
        logger.warning(f"{name}: its vocabulary is not compared, there is no tokenizer beside it")
        return
    if mine != theirs:
        raise ConfigError(f"{name} has another vocabulary than the first model")


@torch.no_grad()
def _move_towards(mean: Any, other: Any, share: float) -> None:
    """Mean + (other - mean) * share: unlike a sum of shares it leaves equal weights as they are."""
    theirs = _tensors(other)
    for name, value in _tensors(mean).items():
        if value.is_floating_point():
            value.lerp_(theirs[name], share)


def _stored_dtype(place: str) -> torch.dtype:
    """The dtype in which a model lies in its folder; float32 for what was merged."""
    if (Path(place) / ADAPTER_FILE).exists():
        return torch.float32
    return AutoConfig.from_pretrained(place).dtype or torch.float32


def _write(model: Any, first: str, output_dir: Path, averaged: Sequence[AveragedModel]) -> None:
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=output_dir.parent, prefix=f".{output_dir.name}."))
    try:
        model.save_pretrained(part)
        try:
            AutoTokenizer.from_pretrained(first).save_pretrained(part)
        except (OSError, ValueError):
            logger.warning(f"{first}: there is no tokenizer beside it; none was written")
        models = [one.model_dump() for one in averaged]
        write_json(
            part / "average.json",
            {"models": models, "made": now(), "packages": package_versions()},
        )
        part.chmod(0o755)
        if output_dir.exists():
            output_dir.rmdir()
        part.rename(output_dir)
    finally:
        shutil.rmtree(part, ignore_errors=True)
