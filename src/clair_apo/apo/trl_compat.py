"""Names of other libraries that are no promise of theirs, and that we use all the same."""

# mypy: allow-untyped-calls
# trl is typed in part only

import functools
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from clair_apo.errors import TrainingError

__all__ = [
    "PRIVATE_NAMES",
    "TESTED_TRL",
    "TRL_METHODS",
    "DPOTrainer",
    "add_fused_lm_head",
    "check_trl",
    "common_prefix_length",
    "disable_gradient_checkpointing",
    "prepare_deepspeed",
    "tested_range",
    "tokenize",
    "trl_internals",
    "use_adapter",
]

logger = logging.getLogger(__name__)

TESTED_TRL = ("1.16", "1.16")
"""The oldest and the newest minor of TRL with which all tests of training passed."""
_INSTALL_TESTED = f"pip install 'trl=={TESTED_TRL[1]}.*'"

TRL_METHODS = (
    "trl.DPOTrainer._compute_loss",
    "trl.DPOTrainer._precompute_ref_logps",
    "trl.DPOTrainer._prepare_dataset",
    "trl.DPOTrainer._save_checkpoint",
    "trl.DPOTrainer._set_signature_columns_if_needed",
)
"""Methods that we override or call. An override whose method is gone would just never be called."""

PRIVATE_NAMES = (
    *TRL_METHODS,
    "os._exit",
    "atexit._run_exitfuncs",
    "threading._shutdown",
    "trl.DPOTrainer._is_vlm",
    "trl.DPOTrainer._signature_columns",
    "trl.DPOTrainer._tokenizer",
    "trl.data_utils._tokenize",
    "torch.nn.Module._forward_hooks",
    "torch.nn.Module._forward_pre_hooks",
    "torch.nn.modules.batchnorm._BatchNorm",
    "transformers.Trainer._get_collator_with_removed_columns",
    "transformers.Trainer._get_output_dir",
    "transformers.Trainer._prepare_inputs",
    "transformers.PreTrainedModel._can_set_attn_implementation",
    "transformers.PreTrainedModel._is_stateful",
    "transformers.PreTrainedModel._supports_attention_backend",
    "transformers.PreTrainedConfig._attn_implementation",
    "transformers.PreTrainedConfig._name_or_path",
    "torch.ops.aten._softmax_backward_data",
    "accelerate.state.GradientState._set_sync_gradients",
)
"""Every private name of another library that training calls or overrides, with its owner.

One test says which version lost one, another that none is missing here.
"""


def tested_range() -> str:
    """The tested minors of TRL, in words."""
    oldest, newest = TESTED_TRL
    return oldest if oldest == newest else f"{oldest} to {newest}"


@contextmanager
def trl_internals() -> Iterator[None]:
    """A block, or as decorator a function, that uses internals of TRL.

    Raises:
        TrainingError: the installed TRL lacks one; names it, its version and the tested range.
    """
    try:
        yield
    except (ImportError, AttributeError) as error:
        if not _is_of_trl(error):
            raise
        raise _lacks(str(error)) from error


@functools.cache
def check_trl() -> None:
    """Look at the installed TRL before a trainer is made; one that was not tested is warned of.

    Raises:
        TrainingError: it lacks a method that we override or call.
    """
    for name in TRL_METHODS:
        if not hasattr(DPOTrainer, name.rsplit(".", 1)[1]):
            raise _lacks(f"there is no {name}")
    installed = version("trl")
    oldest, newest = map(_minor, TESTED_TRL)
    if not oldest <= _minor(installed) <= newest:
        logger.warning(
            f"TRL {installed} was not tested, TRL {tested_range()} was. If training fails: "
            f"{_INSTALL_TESTED}"
        )


def _lacks(what: str) -> TrainingError:
    return TrainingError(
        f"TRL {version('trl')} lacks an internal that training uses: {what}. TRL {tested_range()} "
        f"has it: {_INSTALL_TESTED}"
    )


def _is_of_trl(error: ImportError | AttributeError) -> bool:
    """Whether a name is missing in TRL, not in another library or in our own code."""
    name = error.name or ""
    if isinstance(error, ImportError):
        return name.startswith("trl.")
    return name in {n.rsplit(".", 1)[1] for n in PRIVATE_NAMES if n.startswith("trl.")}


def _minor(number: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", number)[:2])


with trl_internals():
    from trl.data_utils import _tokenize as tokenize
    from trl.data_utils import common_prefix_length
    from trl.models.utils import disable_gradient_checkpointing, prepare_deepspeed
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.utils import add_fused_lm_head, use_adapter
