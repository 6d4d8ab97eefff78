"""Loads a folder with a trained adapter as a policy that can be trained further."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from clair_apo.errors import ModelNotFoundError
from clair_apo.models import find_model

ADAPTER_FILE = "adapter_config.json"


class Policy(NamedTuple):
    """A policy for a trainer."""

    model: Any
    """A model, or its folder or hub name."""
    tokenizer: Any
    """None where it is found beside the model."""


class AdapterFolder(NamedTuple):
    """Locations of the model and the tokenizer of an adapter that was saved alone."""

    model: str
    """The model below the adapter: a folder or a hub name."""
    tokenizer: str
    """The adapter's own folder where it holds a tokenizer, else the model's."""


def adapter_folder(location: str) -> AdapterFolder | None:
    """Find model and tokenizer of an adapter; None for a folder or name without an adapter.

    Raises:
        ModelNotFoundError: the adapter names no model, or one that is not there.
    """
    folder = Path(location)
    if not (folder / ADAPTER_FILE).exists():
        return None
    name = PeftConfig.from_pretrained(location).base_model_name_or_path
    if not name:
        raise ModelNotFoundError(
            f"{folder / ADAPTER_FILE}: names no model; write its folder or hub name under "
            "base_model_name_or_path"
        )
    base = find_model(name).location
    return AdapterFolder(base, location if any(folder.glob("tok*")) else base)


def load_policy(location: str, options: Mapping[str, Any] | None = None) -> Policy:
    """Load a folder with an adapter, ready to be trained further; any other name is passed on.

    Args:
        location: a folder or a hub name.
        options: how the model below an adapter is loaded; float32 by default.

    Raises:
        ModelNotFoundError: an adapter names no model, or one that is not there.
    """
    parts = adapter_folder(location)
    if parts is None:
        return Policy(location, None)
    options = {"dtype": "float32", **(options or {})}
    model = AutoModelForCausalLM.from_pretrained(parts.model, **options)
    return Policy(
        model=PeftModel.from_pretrained(model, location, is_trainable=True),
        tokenizer=AutoTokenizer.from_pretrained(parts.tokenizer),
    )
