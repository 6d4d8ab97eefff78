"""`APOTrainer`: TRL's DPO trainer with objectives, reference and metrics of our own.

Each override names the part that does the work: `PairLayout` and `RowRunner` run a batch through a
model, `Reference` and `ReferenceCache` say what the reference gives it, `pair_outcomes` holds the
losses of the `Objective` and all that metrics are computed from. The parts are made when TRL's
constructor is done. Losses that are not ours, and options that change what a log-ratio is, take
TRL's own way.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    BitsAndBytesConfig,
    DataCollator,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
)
from transformers.trainer_utils import EvalLoopOutput
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from clair_apo.apo.alarms import AlarmCallback
from clair_apo.apo.checkpoints import (
    CheckpointWriter,
    check_resumable,
    named_write_failure,
    resume_folder,
)
from clair_apo.apo.checks import (
    StartGuard,
    check_adapter,
    check_head,
    check_parallelism,
    check_there_are_pairs,
    checked_pairs,
    logp_tolerance,
)
from clair_apo.apo.config import (
    BASE,
    APOConfig,
    as_apo_config,
    check_label_smoothing,
    is_smoothed_here,
)
from clair_apo.apo.error_context import FailureGuard
from clair_apo.apo.forward.batching import (
    GIVEN_WEIGHTS,
    IMAGES,
    ROW,
    ROWS,
    SOURCE,
    TOKENS_PER_CHOSEN,
    WEIGHT,
    WEIGHTS,
    PairBatches,
    count_tokens,
    is_weighted,
    rows_of,
    weighted_mean,
)
from clair_apo.apo.forward.cpu import memory_held
from clair_apo.apo.forward.layout import PairLayout
from clair_apo.apo.forward.layout_choice import (
    check_computes_pairs,
    computes_pairs,
    half_precision_warning,
)
from clair_apo.apo.forward.logps import model_inputs
from clair_apo.apo.forward.noise import switch_off_dropout
from clair_apo.apo.forward.row_runner import RowRunner
from clair_apo.apo.forward.row_size import row_tokens
from clair_apo.apo.forward.shared_prefix import bare_model
from clair_apo.apo.lengths import PairLengths
from clair_apo.apo.metrics import (
    OutcomeLog,
    PairOutcomes,
    PairRewards,
    mean_loss,
    pair_metrics,
    pair_outcomes,
    source_metrics,
)
from clair_apo.apo.objectives import Objective
from clair_apo.apo.reference.cache import (
    AskPolicyAtStart,
    ReferenceCache,
    ReferenceRequest,
    spread_policy,
)
from clair_apo.apo.reference.choose import ReferenceChoice, choose_reference
from clair_apo.apo.reference.logprobs import TOKEN_COLUMNS
from clair_apo.apo.reference.model import Reference
from clair_apo.apo.run_record import RunRecorder, check_settings, settings_of
from clair_apo.apo.run_summary import describe_data, measure, model_card, tokens_digest
from clair_apo.apo.trl_compat import (
    check_trl,
    checkpoints_folder,
    fsdp_hidden,
    is_spread,
    keep_columns,
    overrides_loss,
    prepared_batch,
    sees_images,
)
from clair_apo.apo.watch.policy import policy_watch
from clair_apo.apo.watch.speed import SpeedLog, step_cost
from clair_apo.apo.watch.tokens import answer_ends, end_token_ids
from clair_apo.files import atomic_writer

_OURS = (ROWS, IMAGES, GIVEN_WEIGHTS, *TOKEN_COLUMNS)
"""Keys of a batch that TRL's own loss does not take."""

logger = logging.getLogger(__name__)


class APOTrainer(DPOTrainer):
    """A drop-in for `trl.DPOTrainer`: same arguments, data set formats, PEFT and callbacks.

    What differs: the reference is the model that was passed and never one reloaded by name;
    metrics show chosen and rejected apart and are means over pairs; a run whose policy does not
    start at its reference is stopped; a pair that would be cut to nothing is refused by name.

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

    args: Any
    model: Any
    objective: Objective
    """What is minimised, where `computes_pairs`."""
    alarms: AlarmCallback
    """Has said what contradicts the objective so far."""
    layout: PairLayout
    rows: RowRunner
    batches: PairBatches
    reference: Reference
    reference_cache: ReferenceCache
    checkpoints: CheckpointWriter
    computes_pairs: bool
    """Whether objective and log-ratios are ours, not left to TRL or to a subclass."""
    evaluation_rewards: PairRewards | None = None
    """Of every pair of the last evaluation; None before one, or where TRL has the loss."""
    advice_reason: str = ""
    """Why an advice chose the objective, for card and manifest; empty where none did."""
    data_description: str = ""
    """The pairs in words, for card and record; by default their number and digest."""

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
        check_trl()
        settings = as_apo_config(args or APOConfig(f"{_name_of(model)}-APO"))
        check_there_are_pairs(train_dataset, "train_dataset")
        check_there_are_pairs(eval_dataset, "eval_dataset")
        check_adapter(model, ref_model is not None)
        choice = choose_reference(
            model, ref_model, settings, train_dataset, peft_config is not None
        )
        self._requests: list[ReferenceRequest] = []
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
                callbacks=[*(callbacks or []), *hiding],
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        check_parallelism(self.accelerator.parallelism_config)
        check_head(self.model)
        if settings.disable_dropout:
            switch_off_dropout(self.model)
            switch_off_dropout(self.ref_model)
        self._make_parts(choice)
        self._answer_requests()
        if choice.reload:
            self.ref_model = None
        self._add_callbacks()
        self._settle()
        if warning := half_precision_warning(self.model):
            logger.warning(warning)

    def _make_parts(self, choice: ReferenceChoice) -> None:
        """Make what the overrides below call, from what TRL's constructor has made."""
        args, accelerator = self.args, self.accelerator
        own_loss = overrides_loss(self)
        self.starts_at_reference = choice.is_initial_policy
        self.computes_pairs = not own_loss and computes_pairs(args, self.model)
        check_label_smoothing(args)
        if args.label_smoothing and is_smoothed_here(args) and not own_loss:
            check_computes_pairs(args, self.model, f"label_smoothing {args.label_smoothing}")
        if is_weighted(self.train_dataset) or is_weighted(self.eval_dataset):
            wanted = f"the column {WEIGHT} of the data"
            check_computes_pairs(args, self.model, wanted, own_loss=own_loss)
        self.objective = Objective(
            tuple(zip(self.loss_types, self.loss_weights, strict=True)),
            beta=self.beta,
            length_normalize=args.length_normalize,
            label_smoothing=args.label_smoothing,
        )
        self._end_tokens = end_token_ids(self.processing_class, bare_model(self.model))
        self.layout = PairLayout(
            args, self.model, accelerator, sees_images=sees_images(self), own_loss=own_loss
        )
        pieces = accelerator.num_processes if is_spread(accelerator) else 1
        args.max_tokens_per_batch = row_tokens(self.model, args, accelerator.device, pieces=pieces)
        self.rows = RowRunner(accelerator, self.layout, args.max_tokens_per_batch)
        self.batches = PairBatches(self)
        self.reference = Reference(self, self.rows.forward, from_base=args.reference == BASE)
        self.reference.forget_copy()
        self.reference_cache = ReferenceCache(
            self,
            self.reference,
            self.batches,
            self.processing_class,
            root=choice.cache,
            function=choice.function,
            reload=choice.reload,
        )
        self.data_collator = self.batches.numbered(self.data_collator)
        if self.precompute_ref_logps:
            self.data_collator = self.reference_cache.collate(self.data_collator)
        self.checkpoints = CheckpointWriter(args, accelerator)
        self._errors = FailureGuard(self)
        self._outcomes = OutcomeLog(accelerator)
        cost = step_cost(args, self.model, accelerator.device)
        self._speed = SpeedLog(cost, accelerator.num_processes)
        self._start = StartGuard(
            self,
            self.rows,
            self.reference,
            self.batches,
            self.objective,
            weight=sum(map(abs, self.loss_weights)),
            starts_at_reference=choice.is_initial_policy,
            describe=lambda: describe_data(self),
        )

    def _add_callbacks(self) -> None:
        cache = self.reference_cache if self.precompute_ref_logps else None
        self.alarms = AlarmCallback(self.loss_types, self.args.on_alarm)
        self.add_callback(AskPolicyAtStart(self._settle_wrapped, self.reference, cache))
        self.add_callback(self._outcomes)
        self.add_callback(self._speed)
        self.add_callback(self.alarms)
        self.add_callback(
            RunRecorder(
                lambda: describe_data(self), lambda: self.train_digest, lambda: self.layout.proof
            )
        )
        watch = policy_watch(
            self,
            self.eval_dataset,
            self.processing_class,
            sees_images=sees_images(self),
            log=functools.partial(Trainer.log, self),  # TRL's adds means over training
        )
        if watch is not None:  # the last: others may refuse to begin
            self.add_callback(watch)

    # --- layout and reference

    @property
    def pair_layout(self) -> str:
        """How this run lays out its pairs: `shared_prefix`, `sequences` or `padded`."""
        return self.layout.name

    def _settle(self) -> None:
        """Compare the layouts before training; a policy that will be spread works only then."""
        waits = is_spread(self.accelerator)
        self._compare_layouts(None if waits else self.model)

    def _settle_wrapped(self) -> None:
        self._compare_layouts(self.model_wrapped)

    def _compare_layouts(self, policy: Any) -> None:
        forwards = {"": policy, "the reference: ": self.ref_model}
        there = {name: model for name, model in forwards.items() if model is not None}
        self.layout.settle(self.model, there, self.batches.first)

    def complete_reference(self) -> None:
        """Compute the reference log-probs that wait for training to begin, without training.

        Raises:
            TrainingError: the policy is its reference no more.
        """
        if self.reference_cache.is_waiting:
            spread_policy(self)
            self._settle_wrapped()
            self.reference_cache.complete()

    def _answer_requests(self) -> None:
        if self._requests:
            self._settle()
        while self._requests:
            self.reference_cache.add(self._requests.pop(0))

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Note whose reference is wanted; batches look it up, the data set stays as it is."""
        self._requests.append(ReferenceRequest(dataset, name, batch_size))
        return dataset

    # --- data

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: Any,
        args: DPOConfig,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        """Tokenize as TRL does, but refuse by name what TRL drops or cuts in silence."""
        tokenize = super()._prepare_dataset
        return checked_pairs(dataset, processing_class, args, dataset_name, tokenize)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that name a pair; the collator is not given them."""
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call] # of trl
        keep_columns(self, ("id", ROW, WEIGHT, SOURCE))

    # --- training

    @property
    def loss_is_scaled_for_ga(self) -> bool:  # type: ignore[override] # a constant in trl
        """Whether losses are divided by the pairs of a whole step; TRL's own are means of means."""
        return self.computes_pairs

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """As `Trainer.train`; True goes on from the last checkpoint that is complete.

        Raises:
            TrainingError: the checkpoint is incomplete or of other settings, there is none, or
                memory runs out.
        """
        checkpoint = resume_folder(resume_from_checkpoint, Path(str(self.args.output_dir)))
        if checkpoint is not None:
            self.check_resumed(checkpoint)
            self.checkpoints.restore_reference(self.ref_model, checkpoint)
        resumed = str(checkpoint) if checkpoint else None
        with self._errors.named_optimizer_failure(), memory_held(self.accelerator.device):
            return super().train(resumed, trial, ignore_keys_for_eval)

    def check_resumed(self, checkpoint: Path) -> None:
        """Refuse a checkpoint from which this run cannot go on.

        Raises:
            TrainingError: it is incomplete, or names the settings that it was made with.
        """
        check_resumable(checkpoint)
        self.checkpoints.check_reference(checkpoint)
        settings = settings_of(self.args, self.model)
        check_settings(checkpoint, settings, splits_steps=self.computes_pairs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch the batches of a step, weigh their pairs, and count those of all processes."""
        self._speed.begin_step()
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.computes_pairs or not batches:
            return batches, items
        pairs = self.rows.weigh(batches, self.callback_handler.train_dataloader, device)
        if self.objective.has_sft:
            count_tokens(batches, pairs, self.accelerator, device)
        return batches, pairs

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """One forward and backward for each row; the first step of a run is checked."""
        run_row = super().training_step
        with self._errors.named_memory_failure(inputs):
            if self.computes_pairs:
                inputs = prepared_batch(self, inputs)
                loss = self.rows.step(model, inputs, num_items_in_batch, run_row)
            else:
                loss = run_row(model, inputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        self._outcomes.gather()  # here, where all processes come by; not in log, which one may call
        self._start.check(lambda: self._outcomes.seen("train"), inputs)
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """What a row adds to the loss of its step, or the mean over a batch outside of one.

        With `return_outputs` the model runs once more, for the logits.
        """
        if not self.computes_pairs:
            theirs = {key: value for key, value in inputs.items() if key not in _OURS}
            found = super().compute_loss(  # type: ignore[no-untyped-call] # of trl
                model, theirs, return_outputs, num_items_in_batch
            )
            self._errors.check_finite_mean(found[0] if return_outputs else found, inputs)
            return found
        outcomes = self._pair_outcomes(model, inputs)
        if num_items_in_batch is None:  # outside of a step, which gathers at its end
            self._outcomes.gather()
        tokens = outcomes.chosen_tokens
        own = weighted_mean(tokens.float(), inputs.get(GIVEN_WEIGHTS))
        per_chosen = inputs.get(TOKENS_PER_CHOSEN, own)
        losses = outcomes.losses + self.objective.sft(outcomes.chosen_logps, tokens, per_chosen)
        loss = self.rows.mean_over_step(losses, inputs, num_items_in_batch)
        if not return_outputs:
            return loss
        with torch.no_grad():  # the fused head makes no logits; compute_metrics asks for them
            return loss, model(**model_inputs(inputs))

    def _pair_outcomes(self, model: Any, batch: dict[str, Any]) -> PairOutcomes:
        """What policy and reference say of a batch; it counts in the metrics."""
        forward = self.rows.forward(model, batch)
        outcomes = pair_outcomes(
            forward,
            self.reference.tokens(batch),
            self.objective,
            rows_of(batch),
            answer_ends(batch, self._end_tokens),
            batch.get(GIVEN_WEIGHTS),
        )
        self._errors.check_finite(outcomes)
        mode: Literal["train", "eval"] = "train" if self.model.training else "eval"
        self._outcomes.keep(mode, outcomes, batch.get(WEIGHTS))
        return outcomes

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One forward; a batch that does not fit into memory is named."""
        with self._errors.named_memory_failure(inputs):
            return super().prediction_step(model, inputs, *args, **kwargs)

    # --- checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`; the error of a full disk says what to do.

        Raises:
            TrainingError: the folder cannot be written.
        """
        folder = Path(str(output_dir or self.args.output_dir))
        with named_write_failure(folder, self.state.global_step):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(checkpoints_folder(self, trial))
        with self.checkpoints.writing(run, self.state) as checkpoint:
            super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call] # of trl
            self.checkpoints.save_reference(self.ref_model, checkpoint)

    # --- evaluation and metrics

    def evaluate(
        self,
        eval_dataset: Dataset | IterableDataset | Mapping[str, Any] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As TRL's, but new data can be evaluated after training where the cache knows it."""
        if not self.precompute_ref_logps or isinstance(eval_dataset, str | None):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if isinstance(eval_dataset, Mapping):
            metrics: dict[str, float] = {}
            for name, part in eval_dataset.items():
                metrics |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        args = self.args
        ready: Any = self._prepare_dataset(eval_dataset, self.processing_class, args, "eval")
        size = args.precompute_ref_batch_size or args.per_device_eval_batch_size
        self._precompute_ref_logps(ready, "eval", size)
        self._answer_requests()
        # not TRL's, which would prepare the data and ask for its reference once more
        return Trainer.evaluate(self, ready, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means over all pairs since the last log; one process may call it alone."""
        outcomes = self._outcomes.take("train") if self.model.training else None
        if outcomes is not None:
            logs.update(self._pair_metrics(outcomes, self.train_dataset))
            logs.update(self._speed.take(outcomes.work))
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
        self._outcomes.take("eval")  # what one that was broken off left
        self._errors.evaluated = dataloader.dataset
        self.evaluation_rewards = None
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        outcomes = self._outcomes.take("eval")
        if outcomes is not None:
            metrics = self._pair_metrics(outcomes, dataloader.dataset)
            metrics["loss"] = mean_loss(outcomes, self.objective)
            assert output.metrics is not None  # evaluate() itself adds to them
            output.metrics.update({f"{metric_key_prefix}_{k}": v for k, v in metrics.items()})
            self.evaluation_rewards = PairRewards(
                chosen=tuple(outcomes.chosen_rewards.tolist()),
                rejected=tuple(outcomes.rejected_rewards.tolist()),
            )
        return output

    def _pair_metrics(self, outcomes: PairOutcomes, pairs: Any) -> dict[str, float]:
        """All metrics over pairs, and those of each data set where `pairs` are a mixture."""
        found = pair_metrics(outcomes, self.objective)
        if isinstance(pairs, Dataset) and SOURCE in pairs.column_names:
            rows = outcomes.rows.long().tolist()
            found |= source_metrics(outcomes, pairs.select_columns(SOURCE)[rows][SOURCE])
        return found

    @property
    def logp_tolerance(self) -> float:
        """Nats by which two log-probs of an answer may differ, times the root of its tokens."""
        return logp_tolerance(self.accelerator, self.model)

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
            file.write(model_card(self, model_name or folder.name, tags, dataset_name))


def _name_of(model: Any) -> str:
    name = model if isinstance(model, str) else str(model.config.name_or_path or "")
    return name.rstrip("/").split("/")[-1] or "model"
