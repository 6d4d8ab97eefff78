"""`APOTrainer`: TRL's DPO trainer with objectives, reference and metrics of our own.

The way of a batch: rows (`RowTrainer`) -> `forward_pairs` -> log-ratios against `reference_logps`
-> `PAIR_OBJECTIVES` -> `PairOutcomes`, from which every metric is computed. Losses that are not
ours, and options that change what a log-ratio is, take TRL's own way.
"""

# mypy: allow-untyped-calls
# trl is typed in part only

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model, tqdm
from datasets import Dataset, IterableDataset, are_progress_bars_disabled
from peft import PeftConfig
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BitsAndBytesConfig, DataCollator, PreTrainedModel, TrainerCallback
from transformers.integrations.fsdp import is_fsdp_enabled
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction
from trl.models.utils import prepare_deepspeed
from trl.trainer.dpo_config import DPOConfig

from clair_apo.apo.anchors import PairOutcomes, PairRewards, pair_metrics
from clair_apo.apo.card import model_card
from clair_apo.apo.config import APOConfig
from clair_apo.apo.invariants import (
    LOGP_TOLERANCE_FP32,
    LOGP_TOLERANCE_HALF,
    check_first_step,
    check_resumed_reference,
    check_tokens,
    left_out,
)
from clair_apo.apo.logps import PairForward, PairLogps, model_inputs
from clair_apo.apo.objectives import PAIR_OBJECTIVES
from clair_apo.apo.reference import frozen_copy, reference_logps, with_reference_logps
from clair_apo.apo.row_trainer import WEIGHTS, RowTrainer
from clair_apo.apo.support import half_precision_warning
from clair_apo.errors import TrainingError
from clair_apo.records import atomic_writer

PRIVATE_NAMES = (
    "trl.DPOTrainer._prepare_dataset",
    "trl.DPOTrainer._precompute_ref_logps",
    "trl.data_utils._tokenize",
)
"""Every private name of TRL that we call or override; one test says which version lost one."""

_PROBE = "clair_apo.reference_probe"

logger = logging.getLogger(__name__)


class APOTrainer(RowTrainer):
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
        self.starts_at_reference = ref_model is None
        self.evaluation_rewards: PairRewards | None = None
        self.data_description = ""
        self._outcomes: dict[str, list[Tensor]] = {"train": [], "eval": []}
        self._first_step_seen = False
        self._reference_engine: Any = None
        adapter = peft_config is not None or (not isinstance(model, str) and is_peft_model(model))
        # without a copy, TRL would load the reference by the model's name, whatever was passed
        precomputes = args.precompute_ref_log_probs and not is_fsdp_enabled()
        copies = not (ref_model or adapter or precomputes or isinstance(model, str))
        super().__init__(
            model=model,
            ref_model=frozen_copy(model) if copies else ref_model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        if copies and args.precompute_ref_log_probs:
            self.ref_model = None  # under FSDP: it has said what it had to say
        _ = self.pair_layout  # refuses, or says why it is padded, before anything is computed
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
        with _without_max_length(args):  # TRL drops rows that max_length would empty
            prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)

        def check(row: dict[str, Any], index: int) -> dict[str, Any]:
            where = f"{dataset_name} pair {row.get('id', index)}"
            check_tokens(row, where, left_out=left_out(processing_class, row), args=args)
            return {}

        if isinstance(prepared, IterableDataset):
            return prepared.map(check, with_indices=True)
        quiet = are_progress_bars_disabled()
        bar = tqdm(prepared, desc=f"checking {dataset_name} pairs", leave=False, disable=quiet)
        for index, row in enumerate(bar):
            check(row, index)
        return prepared

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Reference log-probs from the reference at hand, held in memory; no file is read."""
        if isinstance(dataset, IterableDataset):
            raise TrainingError(
                "precompute_ref_log_probs needs a data set with a length, not an IterableDataset"
            )
        model = self.model if self.ref_model is None else self.ref_model
        if self.ref_model is None and self.is_deepspeed_enabled:
            self._reference_engine = self._reference_engine or prepare_deepspeed(
                self.model, self.accelerator
            )
            model = self._reference_engine
        return with_reference_logps(self, model, dataset, name, batch_size)

    # --- loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """What a row adds to the loss of its step, or the mean over a batch outside of one."""
        if not self.computes_pairs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        forward = self.forward_pairs(model, inputs)
        reference = reference_logps(self, inputs)
        losses, outcomes = self._outcomes_of(forward, reference)
        self._keep(outcomes, inputs.get(WEIGHTS))
        loss = self.mean_over_step(losses, inputs, num_items_in_batch)
        if not return_outputs:
            return loss
        with torch.no_grad():  # the fused head makes no logits; compute_metrics asks for them
            return loss, model(**model_inputs(inputs))

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """One forward and backward for each row; the first step of a run is looked at."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.computes_pairs and not self._first_step_seen:
            self._first_step_seen = True
            self._check_start(PairOutcomes.from_tables([self._gathered("train")]))
        return loss

    def _outcomes_of(
        self, forward: PairForward, reference: PairLogps
    ) -> tuple[Tensor, PairOutcomes]:
        """The losses with gradient, (B,), and what is kept of the batch."""
        chosen = forward.logps.chosen - reference.chosen
        rejected = forward.logps.rejected - reference.rejected
        weighted = zip(self.loss_types, self.loss_weights, strict=True)
        losses = torch.stack(
            [w * PAIR_OBJECTIVES[n].loss(chosen, rejected, beta=self.beta) for n, w in weighted]
        ).sum(0)
        return losses, PairOutcomes(
            losses=losses,
            chosen_rewards=self.beta * chosen,
            rejected_rewards=self.beta * rejected,
            chosen_logps=forward.logps.chosen,
            rejected_logps=forward.logps.rejected,
            chosen_tokens=forward.chosen_tokens,
            rejected_tokens=forward.rejected_tokens,
            entropy_sums=forward.entropy_sums,
            top1_tokens=forward.top1_tokens,
        )

    # --- metrics

    def _keep(self, outcomes: PairOutcomes, weights: Tensor | None) -> None:
        """Keep the outcomes of pairs that count until they are logged."""
        table = outcomes.table()
        if not self.model.training:  # without the pairs that fill the last batch of several
            self._outcomes["eval"].append(self.accelerator.gather_for_metrics(table))
        else:
            self._outcomes["train"].append(table if weights is None else table[weights > 0])

    def _gathered(self, mode: str) -> Tensor:
        """The outcomes kept so far, those of training from all processes."""
        table = torch.cat(self._outcomes[mode])
        if mode == "eval":
            return table
        # processes may have seen different numbers of pairs: fill up, and leave out what fills
        table = self.accelerator.pad_across_processes(table, pad_index=torch.nan)
        gathered: Tensor = self.accelerator.gather(table)
        return gathered[~gathered.isnan().all(1)]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means over all pairs since the last log."""
        if self.model.training and self._outcomes["train"]:
            logs.update(pair_metrics(PairOutcomes.from_tables([self._gathered("train")])))
            self._outcomes["train"].clear()
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
        self._outcomes["eval"].clear()
        self.evaluation_rewards = None
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        if self._outcomes["eval"]:
            outcomes = PairOutcomes.from_tables([self._gathered("eval")])
            metrics = pair_metrics(outcomes) | {"loss": outcomes.losses.mean().item()}
            assert output.metrics is not None  # evaluate() itself adds to them
            output.metrics.update({f"{metric_key_prefix}_{k}": v for k, v in metrics.items()})
            self.evaluation_rewards = PairRewards(
                chosen=tuple(outcomes.chosen_rewards.tolist()),
                rejected=tuple(outcomes.rejected_rewards.tolist()),
            )
        return output

    # --- the start of a run

    def _check_start(self, outcomes: PairOutcomes) -> None:
        """Stop a run that does not start, or go on, against the reference it should have."""
        if self.state.global_step == 0 and self.starts_at_reference:
            at_zero = (PAIR_OBJECTIVES[name].at_zero for name in self.loss_types)
            check_first_step(
                outcomes,
                beta=self.beta,
                at_zero=sum(w * v for w, v in zip(self.loss_weights, at_zero, strict=True)),
                weight=sum(map(abs, self.loss_weights)),
                tolerance=self._logp_tolerance(),
            )
        elif self.state.global_step == 0:
            rewards = pair_metrics(outcomes)
            logger.warning(
                "step 0: another reference was passed; mean rewards of the first batch: winner "
                f"{rewards['rewards/chosen']:+.3f}, loser {rewards['rewards/rejected']:+.3f}"
            )
        self._check_probe()

    def _check_probe(self) -> None:
        """Keep what the data is, and what the reference says of it, for a run that is resumed."""
        if not isinstance(self.train_dataset, Dataset):
            return
        columns = [c for c in self.train_dataset.column_names if c.endswith(("_ids", "_logps"))]
        batch = self.data_collator([{c: self.train_dataset[0][c] for c in columns}])
        batch = {key: value.to(self.accelerator.device) for key, value in batch.items()}
        found = [logps.item() for logps in reference_logps(self, batch)]
        states: dict[str, Any] = self.state.stateful_callbacks  # type: ignore[assignment] # is one
        kept = states.setdefault(_PROBE, {"logps": found, "data": self.data_description})
        if kept["data"] != self.data_description:
            raise TrainingError(
                f"the run began with other pairs ({kept['data']}) than these "
                f"({self.data_description}): resume with the same, or start in another output_dir"
            )
        tokens = batch["completion_mask"].sum(1).tolist()
        check_resumed_reference(kept["logps"], found, tokens, tolerance=self._logp_tolerance())

    def _logp_tolerance(self) -> float:
        half = self.accelerator.mixed_precision != "no" or self.model.dtype.itemsize < 4
        return LOGP_TOLERANCE_HALF if half else LOGP_TOLERANCE_FP32

    # --- the card

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
    name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
    return name.rstrip("/").split("/")[-1] or "model"


@contextlib.contextmanager
def _without_max_length(args: DPOConfig) -> Any:
    max_length, args.max_length = args.max_length, None
    try:
        yield
    finally:
        args.max_length = max_length
