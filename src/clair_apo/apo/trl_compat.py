"""Every part of TRL, transformers, accelerate, peft, torch and Python that is no documented API.

Training needs some of them all the same. Each is named here once, with the place that it mirrors,
and the other modules of `apo` import it from here: a new version of a library is then looked over
in one file. `tests/apo/test_trl_compat.py` has a test for each entry, and one that finds a use
anywhere else.

Places are those of trl 1.16.0, transformers 5.23.0, accelerate 1.15.0, peft 0.21.2 and torch
2.13.0, the versions that were read last.
"""

import atexit
import contextlib
import functools
import importlib
import logging
import platform
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType, extract_model_from_parallel
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, Trainer, TrainerCallback
from trl.trainer.dpo_trainer import DPOTrainer

from clair_apo.errors import ClairApoError

logger = logging.getLogger(__name__)

TESTED_TRL = ("1.16", "1.16")
"""The first and the last minor version of TRL that these parts were tested with."""

OVERRIDES = (
    "_precompute_ref_logps",
    "_prepare_dataset",
    "_save_checkpoint",
    "_set_signature_columns_if_needed",
)
"""Private methods of `trl.DPOTrainer` that `APOTrainer` overrides."""


class IncompatibleLibraryError(ClairApoError):
    """An installed version of a library lacks a part that training needs."""


def incompatible(library: str, part: str) -> IncompatibleLibraryError:
    """The error for a part that a library lacks.

    Args:
        library: its name on the package index, or `python`.
        part: what is missing, as a dotted name.
    """
    installed = platform.python_version() if library == "python" else version(library)
    first, last = TESTED_TRL
    tested = first if first == last else f"{first} to {last}"
    beside = "" if library == "trl" else f", and a {library} of the same time"
    return IncompatibleLibraryError(
        f"{library} {installed} has no {part}, which training uses. It was tested with trl "
        f"{tested}: pip install 'trl=={last}.*'{beside}"
    )


def internal(module: str, name: str) -> Any:
    """An object of another library's module.

    Raises:
        IncompatibleLibraryError: the installed version has no such object.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise incompatible(module.split(".")[0], f"{module}.{name}") from error


def member(library: str, owner: Any, name: str) -> Any:
    """An attribute of another library's object.

    Raises:
        IncompatibleLibraryError: the installed version has no such attribute.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise incompatible(library, f"{type(owner).__name__}.{name}") from error


@functools.cache
def check_trl() -> None:
    """Look at the installed TRL before a trainer is made; an untested one is warned of, once.

    Raises:
        IncompatibleLibraryError: it lacks a method that ours overrides, and would never call ours.
    """
    for name in OVERRIDES:
        if not hasattr(DPOTrainer, name):
            raise incompatible("trl", f"DPOTrainer.{name}")
    installed = version("trl")
    first, last = TESTED_TRL
    if not _minor(first) <= _minor(installed) <= _minor(last):
        logger.warning(
            f"trl {installed} was not tested: pip install 'trl=={last}.*' takes one that was; all "
            "that training uses of it is there"
        )


def _minor(number: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", number)[:2])


# --- TRL: functions

tokenize: Callable[..., dict[str, Any]] = internal("trl.data_utils", "_tokenize")
"""Token ids of a text or of messages, with the chat template. `trl/data_utils.py:_tokenize`."""

common_prefix_length: Callable[[Sequence[int], Sequence[int]], int] = internal(
    "trl.data_utils", "common_prefix_length"
)
"""How many ids two lists begin with alike. `trl/data_utils.py:common_prefix_length`."""

add_fused_lm_head: Callable[..., None] = internal("trl.trainer.utils", "add_fused_lm_head")
"""Gives a model the head that `fused_scores` asks. `trl/trainer/utils.py:add_fused_lm_head`."""

pair_collator: Callable[..., Any] = internal("trl.trainer.dpo_trainer", "DataCollatorForPreference")
"""Makes padded batches of tokenized pairs. `trl/trainer/dpo_trainer.py`."""

use_adapter: Callable[[Any, str | None], contextlib.AbstractContextManager[Any]] = internal(
    "trl.trainer.utils", "use_adapter"
)
"""One adapter on, or none, for a while. `trl/trainer/utils.py:use_adapter`."""

disable_gradient_checkpointing: Callable[[Any, Any], contextlib.AbstractContextManager[Any]] = (
    internal("trl.models.utils", "disable_gradient_checkpointing")
)
"""No checkpointing for a while. `trl/models/utils.py:disable_gradient_checkpointing`."""

prepare_deepspeed: Callable[[Any, Any], Any] = internal("trl.models.utils", "prepare_deepspeed")
"""An inference engine around a model. `trl/models/utils.py:prepare_deepspeed`."""


class FusedScores(NamedTuple):
    """What TRL's fused head says of every position. `trl/trainer/utils.py:FusedCausalLMOutput`."""

    log_probs: Tensor
    entropy: Tensor | None
    """None where the head does not compute it."""
    is_top1: Tensor | None
    """None where the head does not compute it."""


def fused_scores(model: Any, inputs: Mapping[str, Any], **labels: Tensor) -> FusedScores:
    """Call a model through TRL's fused head. `trl/trainer/utils.py:add_fused_lm_head`.

    Args:
        model: was given the head by TRL or by `add_fused_lm_head`; wrapped or not.
        inputs: for the model itself.
        labels: `labels`, or `shift_labels` where position t holds the label that t predicts.
    """
    outputs = model(**inputs, **labels, fused_lm_head=True)
    return FusedScores(*(member("trl", outputs, name) for name in FusedScores._fields))


ChunkedLogProbFunction: Any = internal("trl.kernels.chunked_logprob", "ChunkedLogProbFunction")
"""Log-probs of labels without their logits. `trl/kernels/chunked_logprob.py`."""

OPTIONAL_OUTPUTS = ("entropy", "is_top1")
"""What we ask of it beside them. `trl/kernels/chunked_logprob.py:OPTIONAL_OUTPUTS`."""

CHUNK: int = internal("trl.trainer.utils", "_CHUNKED_LOGPROB_CHUNK_SIZE")
"""Columns of the vocabulary that it takes at a time. `trl/trainer/utils.py`."""

gathered_head: Callable[..., contextlib.AbstractContextManager[Any]] = internal(
    "trl.trainer.utils", "maybe_gather_lm_head_ctx"
)
"""Weights of a head whole, under ZeRO-3. `trl/trainer/utils.py:maybe_gather_lm_head_ctx`."""


# --- TRL: the trainer

POLICY_ADAPTER = "default"
"""The adapter that TRL copies as its reference. `trl/trainer/dpo_trainer.py`, `__init__`."""
REFERENCE_ADAPTER = "ref"
"""The frozen copy of it. `trl/trainer/dpo_trainer.py`, `__init__`."""


def tokenized_pairs(
    pairs: Dataset, tokenizer: Any, name: str, processes: int | None = None
) -> Dataset:
    """Pairs as TRL's trainer tokenizes them, none dropped. `DPOTrainer._prepare_dataset`.

    It asks its trainer for nothing but the tokenizer, and runs without one here.

    Args:
        pairs: preference rows in any of TRL's formats.
        tokenizer: with the chat template.
        name: of the data set, for progress bars.
        processes: that tokenize; None takes this one alone.
    """
    prepare = member("trl", DPOTrainer, "_prepare_dataset")
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    uncut = SimpleNamespace(max_length=None, truncation_mode="keep_start")
    uncut.dataset_num_proc = processes
    try:
        return prepare(trainer, pairs, tokenizer, uncut, name)
    except AttributeError as error:  # a later version asks its trainer, or its settings, for more
        if not isinstance(error.obj, SimpleNamespace):
            raise
        raise incompatible(
            "trl", f"DPOTrainer._prepare_dataset without a trainer's {error.name}"
        ) from error


def overrides_loss(trainer: DPOTrainer) -> bool:
    """Whether a subclass computes TRL's loss itself. `DPOTrainer._compute_loss`."""
    own = member("trl", DPOTrainer, "_compute_loss")
    return getattr(member("trl", trainer, "_compute_loss"), "__func__", None) is not own


def sees_images(trainer: DPOTrainer) -> bool:
    """Whether the processing class is of a vision-language model. `DPOTrainer._is_vlm`."""
    return bool(member("trl", trainer, "_is_vlm"))


def keep_columns(trainer: DPOTrainer, names: Sequence[str]) -> None:
    """Keep columns that TRL would remove. `DPOTrainer._set_signature_columns_if_needed`."""
    known = member("trl", trainer, "_signature_columns")
    trainer._signature_columns = known + [name for name in names if name not in known]


class _HidesFsdp(TrainerCallback):
    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_init_end(self, *event: Any, **more: Any) -> None:
        self._trainer.is_fsdp_enabled = False


@contextlib.contextmanager
def fsdp_hidden(trainer: Any, hides: bool) -> Iterator[list[TrainerCallback]]:
    """Hide FSDP from TRL while its constructor runs. `DPOTrainer.__init__`, `is_fsdp_enabled`.

    With `precompute_ref_log_probs` under FSDP, TRL loads a second model by the policy's name and
    asks that one. Here the policy itself is asked, once it has been spread.

    Args:
        trainer: about to be made.
        hides: False changes nothing.

    Yields:
        Callbacks for the constructor: transformers sets the flag in its part, which ends with
        `on_init_end`; TRL reads it after that.
    """
    callbacks: list[TrainerCallback] = [_HidesFsdp(trainer)] if hides else []
    yield callbacks
    for callback in callbacks:
        trainer.remove_callback(callback)
        trainer.is_fsdp_enabled = uses_fsdp(trainer.accelerator)


# --- transformers: the trainer

rotate_checkpoints: Callable[..., None] = internal(
    "transformers.trainer_utils", "rotate_checkpoints"
)
"""Deletes old checkpoints. `transformers/trainer_utils.py:rotate_checkpoints`."""


def prepared_batch(trainer: Trainer, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch on the device. `transformers/trainer.py:Trainer._prepare_inputs`."""
    prepared: dict[str, Any] = member("transformers", trainer, "_prepare_inputs")(batch)
    return prepared


def known_columns_collator(trainer: Trainer, collate: Any) -> Any:
    """A collator given only columns that it knows. `Trainer._get_collator_with_removed_columns`."""
    return member("transformers", trainer, "_get_collator_with_removed_columns")(collate)


def checkpoints_folder(trainer: Trainer, trial: Any) -> str:
    """Where a run's checkpoints go. `transformers/trainer.py:Trainer._get_output_dir`."""
    return str(member("transformers", trainer, "_get_output_dir")(trial=trial))


# --- transformers: models and attention

is_deepspeed_zero3_enabled: Callable[[], bool] = internal(
    "transformers.integrations.deepspeed", "is_deepspeed_zero3_enabled"
)
"""Whether models are loaded in pieces. `transformers/integrations/deepspeed.py`."""

is_triton_available: Callable[[], bool] = internal(
    "transformers.utils.import_utils", "is_triton_available"
)
"""Whether kernels in Triton can be had. `transformers/utils/import_utils.py`."""

repeat_kv: Callable[[Tensor, int], Tensor] = internal(
    "transformers.integrations.sdpa_attention", "repeat_kv"
)
"""Key-value heads repeated for their queries. `transformers/integrations/sdpa_attention.py`."""

_attention_functions: Any = internal("transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS")


def attention_function(name: str | None) -> Any:
    """An attention by its name; None for one of a model's own code. `ALL_ATTENTION_FUNCTIONS`."""
    return _attention_functions.get(name)


def attention_name(config: Any) -> Any:
    """The attention that a model is set to. `PreTrainedConfig._attn_implementation`."""
    return member("transformers", config, "_attn_implementation")


def attention_names(config: Any) -> Any:
    """The attention of a model and of its parts, as `set_attn_implementation` takes them."""
    parts = {
        key: getattr(config, key, None) for key in member("transformers", config, "sub_configs")
    }
    names = {key: attention_names(part) for key, part in parts.items() if part is not None}
    return {"": attention_name(config), **names} if names else attention_name(config)


def is_stateful(model: PreTrainedModel) -> bool:
    """Whether a model carries a state from token to token. `PreTrainedModel._is_stateful`."""
    return bool(member("transformers", model, "_is_stateful"))


def takes_attention(model: PreTrainedModel) -> bool:
    """Whether attention can be replaced. `PreTrainedModel._can_set_attn_implementation`."""
    can_be_set = member("transformers", model, "_can_set_attn_implementation")
    return bool(member("transformers", model, "_supports_attention_backend") and can_be_set())


# --- accelerate

BatchSamplerShard: Any = internal("accelerate.data_loader", "BatchSamplerShard")
"""Deals batches of data with a length out to processes. `accelerate/data_loader.py`."""
IterableDatasetShard: Any = internal("accelerate.data_loader", "IterableDatasetShard")
"""Deals one stream out to processes. `accelerate/data_loader.py`."""


def uses_fsdp(accelerator: Any) -> bool:
    """Whether FSDP spreads models over processes. `accelerate/state.py`, `fsdp_plugin`."""
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def uses_deepspeed(accelerator: Any) -> bool:
    """Whether DeepSpeed holds models in an engine. `accelerate/state.py`, `deepspeed_plugin`."""
    return getattr(accelerator.state, "deepspeed_plugin", None) is not None


def is_spread(accelerator: Any) -> bool:
    """Whether FSDP or DeepSpeed will spread the policy over processes, or has."""
    return uses_fsdp(accelerator) or uses_deepspeed(accelerator)


def active_loader(accelerator: Any) -> Any:
    """The loader that is being read. `accelerate/state.py:GradientState.active_dataloader`."""
    return member("accelerate", accelerator.gradient_state, "active_dataloader")


def is_last_batch(accelerator: Any) -> bool:
    """Whether a loader gave its last batch. `accelerate/state.py`, `end_of_dataloader`."""
    return bool(member("accelerate", accelerator.gradient_state, "end_of_dataloader"))


@contextlib.contextmanager
def unsynced(accelerator: Any, model: Any) -> Iterator[None]:
    """A backward pass whose gradients wait. `GradientState._set_sync_gradients`.

    DeepSpeed knows no `no_sync`: its optimizer steps where `sync_gradients` is true.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        with accelerator.no_sync(model):
            yield
        return
    state = accelerator.gradient_state
    setter, syncs = member("accelerate", state, "_set_sync_gradients"), state.sync_gradients
    setter(False)
    try:
        yield
    finally:
        setter(syncs)


# --- peft

BaseTuner: Any = internal("peft.tuners.tuners_utils", "BaseTuner")
"""The module between a `PeftModel` and its model. `peft/tuners/tuners_utils.py:BaseTuner`."""

WRAPPED = ("base_layer", "original_module", "token_adapter")
"""What an adapter names its inside. `peft/tuners/tuners_utils.py`, `peft/utils/other.py`."""


def is_peft_model(model: Any) -> bool:
    """Whether a model has an adapter, inside of wrappers too. `accelerate/utils/modeling.py`."""
    from peft import PeftModel

    return isinstance(extract_model_from_parallel(model), PeftModel)


@contextlib.contextmanager
def no_trace_of_generate(model: Any) -> Iterator[None]:
    """Take back what generating sets on an adapter. `peft/peft_model.py`, `generate`."""
    names = ("prepare_inputs_for_generation", "generation_config")
    tuner = model.base_model if is_peft_model(model) else None
    inside = (part for part in (tuner, getattr(tuner, "model", None)) if part is not None)
    before = [(vars(part), {n: vars(part)[n] for n in names if n in vars(part)}) for part in inside]
    try:
        yield
    finally:
        for attributes, own in before:
            for name in names:
                attributes.pop(name, None)
            attributes.update(own)


def adapter_attributes(module: Any) -> tuple[str, ...]:
    """Where a layer holds something for each of its adapters. `BaseTunerLayer`, `*_names`."""
    return tuple(
        name
        for names in ("adapter_layer_names", "other_param_names")
        for name in getattr(module, names, ())
    )


def adapter_prefix(model: Any) -> str | None:
    """What the names of an adapter's weights contain, where it says so. `BaseTuner.prefix`."""
    return getattr(model.base_model, "prefix", None)


def wraps_tokens(head: Any) -> bool:
    """Whether a head has trained tokens beside its weights. `peft/utils/other.py`."""
    return type(head).__name__ == "TrainableTokensWrapper"


def prompt_is_off(model: Any) -> bool:
    """Whether a learnt prompt is switched off. `peft/peft_model.py:PeftModel.disable_adapter`."""
    return bool(vars(model).get("forward") == model.base_model.forward)


# --- torch

BatchNorm: Any = internal("torch.nn.modules.batchnorm", "_BatchNorm")
"""All layers that take statistics over a batch. `torch/nn/modules/batchnorm.py:_BatchNorm`."""

WeakIdKeyDictionary: Any = internal("torch.utils.weak", "WeakIdKeyDictionary")
"""A dictionary by identity that keeps no key alive. `torch/utils/weak.py`."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def forward_hooks(module: nn.Module) -> list[Any]:
    """What is called before and after a module's forward. `torch/nn/modules/module.py`."""
    return [hook for kind in _HOOKS for hook in member("torch", module, kind).values()]


def global_forward_hooks() -> list[Any]:
    """What is called at every module's forward. `torch/nn/modules/module.py:_global_*`."""
    found = (internal("torch.nn.modules.module", f"_global{kind}") for kind in _HOOKS)
    return [hook for hooks in found for hook in hooks.values()]


def softmax_backward_(grad: Tensor, shares: Tensor) -> None:
    """From the gradient of a softmax to that of its scores, in place. `torch.ops.aten`.

    Args:
        grad: of the shares; afterwards of the scores.
        shares: what the softmax gave over its last dimension.
    """
    operator = member("torch", torch.ops.aten, "_softmax_backward_data")
    operator.out(grad, shares, -1, shares.dtype, grad_input=grad)


def without_reducer(model: Any) -> Any:
    """The model inside of what adds up gradients of whole weights; any other one as it is.

    That is DDP, and the engine of ZeRO-1 and 2. DeepSpeed's `DeepSpeedEngine.module`.
    """
    engine = type(model).__name__ == "DeepSpeedEngine"
    if engine and any(map(is_in_pieces, model.parameters())):
        return model
    return model.module if engine or isinstance(model, DistributedDataParallel) else model


def is_in_pieces(weight: Any) -> bool:
    """Whether FSDP or ZeRO-3 spread a weight. `DTensor.full_tensor`; DeepSpeed's `ds_id`."""
    return hasattr(weight, "full_tensor") or hasattr(weight, "ds_id")


def whole_weight(weight: Any) -> Tensor:
    """A weight as if it lay on one process; all processes call. As `is_in_pieces`."""
    if hasattr(weight, "full_tensor"):
        return weight.full_tensor()  # type: ignore[no-any-return] # of a DTensor
    if not hasattr(weight, "ds_id"):
        return weight  # type: ignore[no-any-return] # a Tensor
    from deepspeed.runtime.zero import GatheredParameters  # type: ignore[import-not-found] # optional

    with GatheredParameters([weight]):
        return weight.detach().clone()  # type: ignore[no-any-return] # a Tensor


def whole_head(head: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a head, with gradient, gathered where FSDP left them in pieces."""
    found = (head.weight, head.bias)
    weight, bias = (x.full_tensor() if hasattr(x, "full_tensor") else x for x in found)
    return weight, bias


# --- Python


def run_exit_handlers() -> None:
    """Wait for threads, then call exit handlers. As `Py_FinalizeEx` in CPython 3.11 does first."""
    member("python", threading, "_shutdown")()
    member("python", atexit, "_run_exitfuncs")()


# --- accelerate: the launcher


_HANDLED_BY_TORCH = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals whose handlers torch's launcher sets, and leaves."""


def run_in_processes(command: Sequence[str]) -> tuple[int, int] | None:
    """Start processes and wait for them. `accelerate/commands/launch.py:launch_command`.

    Args:
        command: what would follow `accelerate launch`.

    Returns:
        Rank and exit status of the first process that failed, the status below 0 where a signal
        killed it; None where all ended well.

    Raises:
        KeyboardInterrupt: a signal ended the launcher, and it its processes.
        ValueError: accelerate cannot launch that.
    """
    launch = internal("accelerate.commands.launch", "launch_command")
    parser = internal("accelerate.commands.launch", "launch_command_parser")
    stopped = internal("torch.distributed.elastic.multiprocessing.api", "SignalException")
    child_failed = internal("torch.distributed.elastic.multiprocessing.errors", "ChildFailedError")
    # each process has said why it failed; torch would add thirty lines
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    handlers = {number: signal.getsignal(number) for number in _HANDLED_BY_TORCH}
    try:
        launch(parser().parse_args(list(command)))
    except child_failed as error:
        rank, failure = error.get_first_failure()
        return rank, failure.exitcode
    except stopped:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return None
