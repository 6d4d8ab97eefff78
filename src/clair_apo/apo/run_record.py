"""The record of a training: its settings, data, learning rates and what changed on the way.

The record travels in the trainer's state, so that every checkpoint holds it. A run that is resumed
is held to it: what decides its objective, its data or its steps cannot change on the way; what may
change is noted with the step at which it did.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from peft import PeftModel
from pydantic import ValidationError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clair_apo.apo.forward.layout import LayoutProof
from clair_apo.errors import TrainingError
from clair_apo.records import Record

KEY = "clair_apo.run"
"""Where the trainer's state keeps the record."""

_MAY_CHANGE = {
    "output_dir",
    "max_steps",
    "num_train_epochs",
    "on_alarm",
    "reference_cache",
    "pair_layout",
    "max_tokens_per_batch",
    "padding_free",
    "pad_to_multiple_of",
    "dataset_num_proc",
    "trust_remote_code",
    "remove_unused_columns",
    "report_to",
    "run_name",
    "project",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "prediction_loss_only",
    "batch_eval_metrics",
    "bf16_full_eval",
    "fp16_full_eval",
    "include_for_metrics",
    "include_num_input_tokens_seen",
    "per_device_eval_batch_size",
    "enable_jit_checkpoint",
    "restore_callback_states_from_checkpoint",
    "full_determinism",
    "use_cpu",
    "use_cache",
    "use_liger_kernel",
    "liger_kernel_config",
    "parallelism_config",
    "deepspeed",
    "debug",
    "skip_memory_metrics",
    "do_train",
    "do_eval",
    "do_predict",
    "torch_empty_cache_steps",
    "model_init_kwargs.attn_implementation",
    "model_init_kwargs.device_map",
    "model_init_kwargs.low_cpu_mem_usage",
    "model_init_kwargs.trust_remote_code",
}
_MAY_CHANGE_PREFIXES = (
    "activation_",
    "ddp_",
    "eval_",
    "fsdp",
    "gradient_checkpointing",
    "hub_",
    "log_",
    "logging_",
    "precompute_ref_",
    "push_to_hub",
    "save_",
    "torch_compile",
    "trackio_",
    "watch_",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "dataloader_in_order",
)
_OF_ONE_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
_PAIRS = "pairs in a step"
"""The name of their product among the settings."""
# of the moment or the process, or secret: neither compared nor kept
_NOT_KEPT = {
    "resume_from_checkpoint",
    "local_rank",
    "disable_tqdm",
    "hub_token",
    "push_to_hub_token",
}
_NOT_OF_AN_ADAPTER = {
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "auto_mapping",
    "task_type",
    "runtime_config",
}

logger = logging.getLogger(__name__)


class Change(Record):
    """A setting that a resumed run changed."""

    step: int
    """The step that was done before it held."""
    setting: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.setting} {_short(self.before)} -> {_short(self.now)} after step {self.step}"


class LearningRates(Record):
    """The rates that optimizer steps really had, of the first group of weights."""

    first: float
    highest: float
    last: float

    def __str__(self) -> str:
        return f"{self.first:.4g} at first, {self.highest:.4g} at most, {self.last:.4g} at the end"


class RunRecord(Record):
    """The record of one training, from its first step on."""

    settings: dict[str, Any]
    """Settings with which it began, by name; those of an adapter begin with `adapter.`."""
    data: str = ""
    """The pairs trained on, in words."""
    tokens: str | None
    """Digest of the pairs trained on; None for a stream, and where images come in between."""
    began_at: int = 0
    """The step from which this is known: above 0 for a checkpoint of an earlier version."""
    changes: tuple[Change, ...] = ()
    learning_rates: LearningRates | None = None
    layout: LayoutProof | None = None
    """How pairs went through the models since training began or was resumed last, and what proved
    it; None in records of an earlier version."""


def record_of(state: Any) -> RunRecord | None:
    """The record in a `TrainerState`; None before training, and in an earlier version's."""
    kept = (state.stateful_callbacks or {}).get(KEY)
    return RunRecord.model_validate(kept) if kept else None


def settings_of(args: TrainingArguments, model: Any = None) -> dict[str, Any]:
    """All settings of a run by name, as JSON holds them.

    Args:
        args: of this process.
        model: the policy, whose adapter counts where it has one.
    """
    found: dict[str, Any] = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if field.init and field.name not in _NOT_KEPT
    }
    for name, value in (found.pop("model_init_kwargs", None) or {}).items():
        found[f"model_init_kwargs.{name}"] = value
    if isinstance(model, PeftModel):
        adapter = model.peft_config[model.active_adapter].to_dict()
        kept = (item for item in adapter.items() if item[0] not in _NOT_OF_AN_ADAPTER)
        found |= {f"adapter.{name}": value for name, value in kept}
    found["processes"] = args.world_size
    found[_PAIRS] = math.prod(found[name] for name in _OF_ONE_STEP)
    plain: dict[str, Any] = json.loads(json.dumps(found, default=_plain))
    return plain


def check_settings(checkpoint: Path, now: Mapping[str, Any], *, splits_steps: bool = True) -> None:
    """Refuse to go on with settings that the run did not begin with.

    Args:
        checkpoint: to resume from; one without a record, of an earlier version, is let through.
        now: from `settings_of`; what is not in it is not compared.
        splits_steps: whether a step is the same however its pairs are split into batches and
            processes; the losses that TRL computes are not.

    Raises:
        TrainingError: names each such setting, with both values.
    """
    record = _record_in(checkpoint)
    if record is None:
        return
    differences = _differences(record.settings, now)
    as_many = all(name != _PAIRS for name, *_ in differences)
    free = _OF_ONE_STEP if splits_steps and as_many else ()
    wrong = [
        f"{name} {_short(before)} (now {_short(after)})"
        for name, before, after in differences
        if not may_change(name) and name not in free
    ]
    if wrong:
        raise TrainingError(
            f"{checkpoint}: the run began with {'; '.join(wrong)}. That decides what is trained, "
            "so it holds to the end: resume with the values that it began with, or start a new "
            "run in another output_dir"
        )


def may_change(setting: str) -> bool:
    """Whether a run may be resumed with another value; any setting that is not known may not."""
    return setting in _MAY_CHANGE or setting.startswith(_MAY_CHANGE_PREFIXES)


class RunRecorder(TrainerCallback):
    """Keeps the record in the trainer's state.

    Args:
        describe: says in words which pairs are trained on.
        tokens_digest: gives their digest; None for a stream.
        layout: gives what is known of their layout.
    """

    def __init__(
        self,
        describe: Callable[[], str],
        tokens_digest: Callable[[], str | None],
        layout: Callable[[], LayoutProof],
    ) -> None:
        self._describe = describe
        self._tokens_digest = tokens_digest
        self._layout = layout

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a record, or note what a resumed run changes.

        Raises:
            TrainingError: the run began with other pairs.
        """
        settings = settings_of(args, kwargs["model"])
        tokens, record = self._tokens_digest(), record_of(state)
        if record is None:
            record = RunRecord(
                settings=settings,
                data=self._describe(),
                tokens=tokens,
                began_at=state.global_step,
            )
            if state.global_step:
                logger.warning(
                    f"the checkpoint of step {state.global_step} does not say with which settings "
                    "it was made: see that they are the same; the record begins here"
                )
        if tokens and record.tokens and tokens != record.tokens:
            before, now = record.data, self._describe()
            if before == now:  # the same text, in other tokens
                before, now = (f"tokens {found[:12]}" for found in (record.tokens, tokens))
            raise TrainingError(
                f"the run began with other pairs ({before}) than these ({now}): resume with the "
                "same pairs, tokenizer and chat template, or start in another output_dir"
            )
        latest = record.settings | {change.setting: change.now for change in record.changes}
        changes = [
            Change(step=state.global_step, setting=name, before=before, now=after)
            for name, before, after in _differences(latest, settings)
        ]
        known = {"changes": (*record.changes, *changes), "layout": self._layout()}
        self._keep(state, record.model_copy(update=known))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate of the step."""
        record, groups = record_of(state), getattr(kwargs.get("optimizer"), "param_groups", None)
        if record is None or not groups:
            return
        rate = float(groups[0]["lr"])
        before = record.learning_rates or LearningRates(first=rate, highest=rate, last=rate)
        after = LearningRates(first=before.first, highest=max(before.highest, rate), last=rate)
        self._keep(state, record.model_copy(update={"learning_rates": after}))

    def _keep(self, state: Any, record: RunRecord) -> None:
        state.stateful_callbacks = {
            **(state.stateful_callbacks or {}),
            KEY: record.model_dump(mode="json"),
        }


def _record_in(checkpoint: Path) -> RunRecord | None:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        kept = (state.get("stateful_callbacks") or {}).get(KEY)
        return RunRecord.model_validate(kept) if kept else None
    except (OSError, ValueError, AttributeError, ValidationError):
        raise TrainingError(
            f"{checkpoint / 'trainer_state.json'}: its record of the run cannot be read; resume "
            "from another checkpoint, or start a new run in another output_dir"
        ) from None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Settings that both know and that differ; another version may know more."""
    shared = (name for name in before if name in now)
    return [(name, before[name], now[name]) for name in shared if before[name] != now[name]]


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
