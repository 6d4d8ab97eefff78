"""`APOTrainer`: TRL's DPO trainer with objectives, reference and metrics of our own.

The way of a batch: rows (`RowTrainer`) -> `forward_pairs` and `reference_tokens` ->
`pair_outcomes`, which hold the losses of the `Objective` and all that metrics are computed from.
Losses that are not ours, and options that change what a log-ratio is, take TRL's own way.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import tqdm
from datasets import Dataset, IterableDataset, are_progress_bars_disabled
from peft import PeftConfig
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BitsAndBytesConfig, DataCollator, PreTrainedModel, TrainerCallback
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction
from trl.trainer.dpo_config import DPOConfig

from clair_apo.apo.alarms import AlarmCallback
from clair_apo.apo.checkpoints import CheckpointingTrainer
from clair_apo.apo.checks import (
    LOGP_TOLERANCE_FP32,
    LOGP_TOLERANCE_HALF,
    StartGuard,
    check_adapter,
    check_answers,
    check_head,
    check_there_are_pairs,
    check_tokens,
    has_coarse_weights,
    left_out,
)
from clair_apo.apo.config import APOConfig
from clair_apo.apo.error_context import FailureGuard
from clair_apo.apo.forward.batching import IMAGES, ROW, ROWS, TOKENS_PER_CHOSEN, WEIGHTS, rows_of
from clair_apo.apo.forward.cpu import memory_held
from clair_apo.apo.forward.layout_choice import half_precision_warning
from clair_apo.apo.forward.logps import model_inputs
from clair_apo.apo.forward.noise import switch_off_dropout
from clair_apo.apo.lengths import PairLengths
from clair_apo.apo.metrics import OutcomeLog, PairRewards, mean_loss, pair_metrics, pair_outcomes
from clair_apo.apo.objectives import Objective
from clair_apo.apo.reference.cache import (
    AskPolicyAtStart,
    ReferenceCache,
    ReferenceTrainer,
    is_spread,
)
from clair_apo.apo.reference.choose import choose_reference, finish_choice
from clair_apo.apo.reference.logprobs import TOKEN_COLUMNS, reference_tokens
from clair_apo.apo.run_record import RunRecorder, check_settings, settings_of
from clair_apo.apo.run_summary import describe_data, measure, model_card, tokens_digest
from clair_apo.apo.trl_compat import fsdp_hidden, keep_columns
from clair_apo.files import atomic_writer

logger = logging.getLogger(__name__)


class APOTrainer(ReferenceTrainer, CheckpointingTrainer):
    """A drop-in for `trl.DPOTrainer`: same arguments, data set formats, PEFT and callbacks.

    What differs: the reference is the model that was passed and never one reloaded by name;
    metrics show winner and loser apart and are means over pairs; a run whose policy does not start
    at its reference is stopped; a pair that would be cut to nothing is refused by name.

    Args:
        model: a name, a model, or a PEFT model.
        ref_model: the reference; None takes the initial policy.
        args: an `APOConfig`, or a `DPOConfig` as it is.
        data_collator: makes padded batches; TRL's by default.
        train_dataset: preference rows in any of TRL's formats.
        eval_dataset: the same, or several by name.
        processing_class: tokenizer or processor; by default loaded by the model's name.
        compute_metrics: as TRL takes it.
        callbacks: as TRL takes them.
        optimizers: as TRL takes them.
        quantization_config: for a model that is passed by name.
        peft_config: wraps the model in an adapter; the reference is the model without it.

    Raises:
        TrainingError: a pair that cannot be trained on.
    """

    objective: Objective
    """What is minimised, where `computes_pairs`."""
    alarms: AlarmCallback
    """Has said what contradicts the objective so far."""

    def __init__(
        self,
        model: Any,
        ref_model: PreTrainedModel | None = None,
        args: DPOConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | Mapping[str, Any] | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        args = args or APOConfig(f"{_name_of(model)}-APO")
        check_there_are_pairs(train_dataset, "train_dataset")
        check_there_are_pairs(eval_dataset, "eval_dataset")
        check_adapter(model, ref_model is not None)
        choice = choose_reference(model, ref_model, args, train_dataset, peft_config is not None)
        self.starts_at_reference = choice.is_initial_policy
        self.evaluation_rewards: PairRewards | None = None
        self.data_description = ""
        self._guard = FailureGuard(self)
        self._start = StartGuard(self)
        self.reference_cache = ReferenceCache(self, choice.cache, choice.function, choice.reload)
        hides = bool(choice.args.precompute_ref_log_probs) and choice.model is None
        with fsdp_hidden(self, hides) as hiding:
            super().__init__(
                model=model,
                ref_model=choice.model,
                args=choice.args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_metrics=compute_metrics,
                callbacks=[*(callbacks or []), AskPolicyAtStart(self), *hiding],
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        check_head(self.model)
        if args.disable_dropout:
            switch_off_dropout(self.model)
            switch_off_dropout(self.ref_model)
        self.data_collator = self.numbered(self.data_collator)
        finish_choice(self, choice)
        self._kept = OutcomeLog(self.accelerator)
        self.add_callback(self._kept)
        self.objective = Objective(
            tuple(zip(self.loss_types, self.loss_weights, strict=True)),
            beta=self.beta,
            length_normalize=getattr(args, "length_normalize", False),
        )
        self.alarms = AlarmCallback(self.loss_types, getattr(args, "on_alarm", "warn"))
        self.add_callback(self.alarms)
        self.add_callback(RunRecorder(self, describe_data))
        self.settle_layout(None if is_spread(self) else self.model)
        if warning := half_precision_warning(self.model):
            logger.warning(warning)

    # --- data

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: Any,
        args: DPOConfig,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        """Tokenize as TRL does, but refuse by name what TRL drops or cuts in silence."""
        dataset = _as_python(dataset)
        if isinstance(dataset, Dataset):
            for index, row in enumerate(_raw(dataset)):
                check_answers(row, f"{dataset_name} pair {row.get('id', index)}")
        with _without_max_length(args):  # TRL drops rows that max_length would empty
            prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)

        def check(row: dict[str, Any], index: int) -> dict[str, Any]:
            where = f"{dataset_name} pair {row.get('id', index)}"
            check_tokens(row, where, left_out=left_out(processing_class, row), args=args)
            return {ROW: index}

        if isinstance(prepared, IterableDataset):
            return prepared.map(check, with_indices=True)
        quiet = are_progress_bars_disabled()
        bar = tqdm(prepared, desc=f"checking {dataset_name} pairs", leave=False, disable=quiet)
        for index, row in enumerate(bar):
            check(row, index)
        if ROW in prepared.column_names:  # numbered before, maybe as part of more
            prepared = prepared.remove_columns(ROW)
        return prepared.add_column(ROW, range(len(prepared)))

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that name a pair; the collator is not given them."""
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        keep_columns(self, ("id", ROW))

    # --- loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch the batches of a step, and tell each what its sft term is divided by."""
        batches, pairs = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not (self.computes_pairs and self.objective.has_sft and batches):
            return batches, pairs
        lengths = [
            b["completion_mask"][:, 1:].chunk(2)[0].sum(1).to(device, torch.float32)
            for b in batches
        ]
        count = torch.stack([n @ b[WEIGHTS] for n, b in zip(lengths, batches, strict=True)]).sum()
        per_chosen = self.accelerator.reduce(count) / pairs
        for batch in batches:
            batch[TOKENS_PER_CHOSEN] = per_chosen.expand(len(batch[WEIGHTS]))
        return batches, pairs

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """What a row adds to the loss of its step, or the mean over a batch outside of one."""
        if not self.computes_pairs:
            ours = (ROWS, IMAGES, *TOKEN_COLUMNS)
            theirs = {key: value for key, value in inputs.items() if key not in ours}
            found = super().compute_loss(  # type: ignore[no-untyped-call]
                model, theirs, return_outputs, num_items_in_batch
            )
            self._guard.check_finite_mean(found[0] if return_outputs else found, inputs)
            return found
        forward = self.forward_pairs(model, inputs)
        reference = reference_tokens(self, inputs)
        outcomes = pair_outcomes(forward, reference, self.objective, rows_of(inputs))
        self._guard.check_finite(outcomes)
        mode: Literal["train", "eval"] = "train" if self.model.training else "eval"
        self._kept.keep(mode, outcomes, inputs.get(WEIGHTS))
        if num_items_in_batch is None:  # outside of a step, which gathers at its end
            self._kept.gather()
        tokens = outcomes.chosen_tokens
        per_chosen = inputs.get(TOKENS_PER_CHOSEN, tokens.float().mean())
        losses = outcomes.losses + self.objective.sft(outcomes.chosen_logps, tokens, per_chosen)
        loss = self.mean_over_step(losses, inputs, num_items_in_batch)
        if not return_outputs:
            return loss
        with torch.no_grad():  # the fused head makes no logits; compute_metrics asks for them
            return loss, model(**model_inputs(inputs))

    def check_resumed(self, checkpoint: Path) -> None:
        """Refuse to go on from a checkpoint that was made with other settings.

        Raises:
            TrainingError: names them, or says that the checkpoint cannot be resumed from.
        """
        super().check_resumed(checkpoint)
        settings = settings_of(self.args, self.model)
        check_settings(checkpoint, settings, splits_steps=self.computes_pairs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; memory that runs out outside of a batch is said in words too."""
        with self._guard.named_optimizer_failure(), memory_held(self.accelerator.device):
            return super().train(*args, **kwargs)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """One forward and backward for each row; the first step of a run is looked at."""
        with self._guard.named_memory_failure(inputs):
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._kept.gather()  # here, where all processes come by; not in log, which one may call
        if not self._start.checked:
            self._start.check(self._kept.seen("train"), inputs)
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One forward; a batch that does not fit into memory is named."""
        with self._guard.named_memory_failure(inputs):
            return super().prediction_step(model, inputs, *args, **kwargs)

    # --- metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means over all pairs since the last log; one process may call it alone."""
        outcomes = self._kept.take("train") if self.model.training else None
        if outcomes is not None:
            logs.update(pair_metrics(outcomes, self.objective))
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate, with metrics over pairs and the rewards of each in `evaluation_rewards`."""
        self._kept.take("eval")  # what one that was broken off left
        self._guard.evaluated = dataloader.dataset
        self.evaluation_rewards = None
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        outcomes = self._kept.take("eval")
        if outcomes is not None:
            metrics = pair_metrics(outcomes, self.objective)
            metrics["loss"] = mean_loss(outcomes, self.objective)
            assert output.metrics is not None  # evaluate() itself adds to them
            output.metrics.update({f"{metric_key_prefix}_{k}": v for k, v in metrics.items()})
            self.evaluation_rewards = PairRewards(
                chosen=tuple(outcomes.chosen_rewards.tolist()),
                rejected=tuple(outcomes.rejected_rewards.tolist()),
            )
        return output

    @property
    def logp_tolerance(self) -> float:
        """Nats by which two log-probs of an answer may differ, times the root of its tokens."""
        half = self.accelerator.mixed_precision != "no" or has_coarse_weights(self.model)
        return LOGP_TOLERANCE_HALF if half else LOGP_TOLERANCE_FP32

    # --- the card

    @functools.cached_property
    def train_lengths(self) -> PairLengths | None:
        """Lengths and truncation of the pairs trained on; None for a stream."""
        return measure(self.train_dataset, self.args)

    @functools.cached_property
    def train_digest(self) -> str | None:
        """Digest of the pairs trained on, as `tokens_digest`; None for a stream."""
        return tokens_digest(self.train_dataset)

    def create_model_card(  # type: ignore[override] # the form that trl gave it
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """Write a short `README.md` into the output folder: what was trained, how, how far."""
        if not self.is_world_process_zero():
            return
        tags = [tags] if isinstance(tags, str) else tags or []
        folder = Path(str(self.args.output_dir))
        with atomic_writer(folder / "README.md") as file:
            file.write(model_card(self, model_name or folder.name, tags))


def _name_of(model: Any) -> str:
    name = model if isinstance(model, str) else str(model.config.name_or_path or "")
    return name.rstrip("/").split("/")[-1] or "model"


def _as_python(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Rows as lists and text, whatever arrays a data set is told to give; transforms stay."""
    if isinstance(dataset, Dataset) and dataset.format["type"] not in (None, "custom"):
        return dataset.with_format(None)
    return dataset


def _raw(dataset: Any) -> Any:
    """The columns of a pair that are text, in every row."""
    if dataset.format["type"] == "custom":
        return dataset
    wanted = ("id", "chosen", "rejected")
    return dataset.select_columns([c for c in wanted if c in dataset.column_names])


@contextlib.contextmanager
def _without_max_length(args: DPOConfig) -> Any:
    max_length, args.max_length = args.max_length, None
    try:
        yield
    finally:
        args.max_length = max_length
