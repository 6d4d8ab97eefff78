"""Checks of pairs, of adapters and of the first step; a run that fails one is stopped.

The prompt is a true prefix, no answer is empty after truncation, and where the reference is the
initial policy, step 0 finds rewards of 0 and the objective's own value.
"""

import contextlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel, tqdm
from datasets import Dataset, IterableDataset, are_progress_bars_disabled
from peft import PeftModel
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig

from clair_apo.apo.forward.batching import ROW, WEIGHT, WEIGHTS, PairBatches, rows_of
from clair_apo.apo.forward.host import Host
from clair_apo.apo.forward.noise import (
    in_eval_mode,
    learns_a_prompt,
    noise_sources,
    starts_elsewhere,
)
from clair_apo.apo.forward.row_runner import RowRunner
from clair_apo.apo.metrics import PairOutcomes, pair_metrics, pair_outcomes
from clair_apo.apo.objectives import Objective
from clair_apo.apo.reference.model import Reference
from clair_apo.apo.trl_compat import POLICY_ADAPTER, tokenize, uses_deepspeed, wraps_tokens
from clair_apo.errors import TrainingError

LOGP_TOLERANCE_FP32 = 1e-3
"""Nats by which a log-ratio may miss 0 at step 0, for each square root of its tokens."""
LOGP_TOLERANCE_HALF = 0.1
"""As `LOGP_TOLERANCE_FP32`, in bfloat16 and float16: nine times the largest miss measured,
0.011 (SmolLM2-135M, 12 answers of 149 to 369 tokens, reference precomputed in batches of another
size; 0.006 under autocast, 0.000007 in float32)."""


PROBE = "clair_apo.reference_probe"
"""Where the trainer's state keeps what the reference said of the first pair."""

logger = logging.getLogger(__name__)


def check_there_are_pairs(pairs: Any, name: str) -> None:
    """Refuse a data set without a row.

    Args:
        pairs: a data set or a stream; of a dictionary each is looked at.
        name: of the data set, for the error.

    Raises:
        TrainingError: names it.
    """
    if isinstance(pairs, Mapping):
        for part, there in pairs.items():
            check_there_are_pairs(there, f"{name} {part}")
    elif pairs is not None and next(iter(pairs), None) is None:
        raise TrainingError(f"{name} holds no pair: there is nothing to train on or to evaluate")


def check_answers(row: Mapping[str, Any], where: str) -> None:
    """Refuse a pair that lacks an answer, before it is tokenized.

    Args:
        row: as it was passed; tokens that are there already are looked at by `check_tokens`.
        where: which pair it is, for the message.

    Raises:
        TrainingError: names the pair.
    """
    for side in ("chosen", "rejected"):
        if side not in row or f"{side}_ids" in row:
            continue
        answer = row[side]
        turns = (
            [answer] if isinstance(answer, str) else [t and t.get("content") for t in answer or ()]
        )
        if not any(isinstance(text, list) or (text or "").strip() for text in turns):
            raise TrainingError(f"{where}: {side!r} is empty; take the pair out, or fill it in")


def check_weight(row: Mapping[str, Any], where: str) -> None:
    """Refuse a pair whose `weight` is no number from 0 up.

    Args:
        row: with or without the column.
        where: which pair it is, for the message.

    Raises:
        TrainingError: names the pair.
    """
    if WEIGHT not in row:
        return
    weight = row[WEIGHT]
    if not isinstance(weight, Real) or not 0 <= float(weight) < math.inf:
        raise TrainingError(
            f"{where}: {WEIGHT!r} must be a number, 0 or above, got {weight!r}; mend it, or take "
            "the column out for pairs that all weigh the same"
        )


def check_adapter(model: Any, has_reference: bool) -> None:
    """Refuse an adapter that TRL's trainer cannot find, before it looks for it.

    Args:
        model: the policy as it was passed.
        has_reference: whether a reference model was passed.

    Raises:
        TrainingError: says how to call it.
    """
    names = list(getattr(model, "peft_config", None) or ())
    if isinstance(model, PeftModel) and not has_reference and POLICY_ADAPTER not in names:
        raise TrainingError(
            f"the policy's adapter is called {', '.join(names)}, and TRL's trainer copies the one "
            'called default as its reference: load it under that name (adapter_name="default"), '
            "or pass ref_model"
        )


_REFUSED_PARALLELISM = {
    "tp_size": "tensor parallelism",
    "cp_size": "context parallelism",
    "sp_size": "sequence parallelism",
}


def check_parallelism(parallel: Any) -> None:
    """Refuse ways of splitting a model or its sequences that nobody has compared with one device.

    Args:
        parallel: accelerate's `ParallelismConfig`; None where there is none.

    Raises:
        TrainingError: says what to take instead.
    """
    if parallel is None:
        return
    asked = [
        f"{name} ({key} {size})"
        for key, name in _REFUSED_PARALLELISM.items()
        if (size := getattr(parallel, key, 1) or 1) > 1
    ]
    copies = getattr(parallel, "dp_replicate_size", 1) or 1
    if copies > 1 and (getattr(parallel, "dp_shard_size", 1) or 1) > 1:
        asked.append(f"hybrid sharding (dp_replicate_size {copies})")
    if asked:
        raise TrainingError(
            f"{' and '.join(asked)}: whether pairs then train as on one device was never tried, so "
            "it is refused; spread the weights by configs/accelerate/fsdp2.yaml or zero3.yaml, and "
            "set max_length to what one device holds"
        )


def check_head(model: Any) -> None:
    """Refuse a head that an adapter wraps so that it has no weights of its own to score with.

    Args:
        model: the policy.

    Raises:
        TrainingError: says what to leave out.
    """
    head = model.get_output_embeddings()
    if wraps_tokens(head):
        raise TrainingError(
            "trainable_token_indices also wraps the model's head where that is tied to the "
            "embeddings, and log-probabilities are computed from the head's weights alone: leave "
            "it out, or train the embeddings as a whole (modules_to_save)"
        )


def has_coarse_weights(model: Any) -> bool:
    """Whether some weights have fewer than 32 bits; what quantized ones give depends on the batch.

    Args:
        model: wrapped or not, adapted or not.
    """
    inner = extract_model_from_parallel(model)
    bare = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    if getattr(bare, "quantization_method", None) or getattr(bare, "hf_quantizer", None):
        return True
    return any(weight.dtype.itemsize < 4 for weight in inner.parameters())


def logp_tolerance(accelerator: Any, model: Any) -> float:
    """Nats by which two log-probs of an answer may differ, times the root of its tokens."""
    half = accelerator.mixed_precision != "no" or has_coarse_weights(model)
    return LOGP_TOLERANCE_HALF if half else LOGP_TOLERANCE_FP32


def left_out(processing_class: Any, row: Mapping[str, Any]) -> str | None:
    """The end of the prompt that is missing from `prompt_ids`; None if nothing is.

    TRL lets the answers begin where tokenizing the prompt alone and with an answer diverge, and
    what the prompt has beyond that is lost.
    """
    tools = row.get("tools")
    options = {"tools": json.loads(tools) if isinstance(tools, str) else tools}
    options |= row.get("chat_template_kwargs") or {}
    whole = tokenize(processing_class, row["prompt"], add_generation_prompt=True, **options)
    missing = whole["input_ids"][len(row["prompt_ids"]) :]
    return processing_class.decode(missing) if missing else None


def check_tokens(
    row: Mapping[str, Any], where: str, *, left_out: str | None, args: DPOConfig
) -> None:
    """Refuse a pair whose prompt is no true prefix, or that leaves a side without tokens.

    Args:
        row: `prompt_ids`, `chosen_ids` and `rejected_ids` of one pair.
        where: which pair it is, for the message.
        left_out: what `left_out` found.
        args: how prompt and answer are cut.

    Raises:
        TrainingError: names the pair.
    """
    if left_out is not None:
        raise TrainingError(
            f"{where}: the tokenized prompt is not a prefix of prompt and answer: its end "
            f"{left_out!r} would be left out. Use a chat template that renders the prompt the "
            "same way with and without an answer, or end the prompt where a token ends"
        )
    for side in ("chosen", "rejected"):
        if not len(row[f"{side}_ids"]):  # a list, or a tensor of a formatted stream
            raise TrainingError(f"{where}: {side!r} has no tokens; take the pair out")
    prompt_tokens = len(row["prompt_ids"])
    limit = args.max_length if args.truncation_mode == "keep_start" else None
    if limit is not None and prompt_tokens >= limit:
        raise TrainingError(
            f"{where}: the prompt alone has {prompt_tokens} tokens and leaves none to the answers "
            f"within max_length {limit}; raise max_length, or take the pair out"
        )


def checked_pairs(
    dataset: Dataset | IterableDataset,
    processing_class: Any,
    args: DPOConfig,
    name: str,
    tokenize_pairs: Callable[..., Any],
) -> Dataset | IterableDataset:
    """Tokenize pairs as TRL does, number them, and refuse by name what TRL drops or cuts.

    Args:
        dataset: preference rows; a stream is checked as it is read.
        processing_class: tokenizer or processor.
        args: how prompt and answer are cut.
        name: of the data set, for progress bars and errors.
        tokenize_pairs: TRL's own way, given the first four.

    Returns:
        The tokenized pairs with their numbers under `ROW`.

    Raises:
        TrainingError: names the first pair that cannot be trained on.
    """
    dataset = _as_python(dataset)
    if isinstance(dataset, Dataset):
        for index, row in enumerate(_text_columns(dataset)):
            check_answers(row, f"{name} pair {row.get('id', index)}")
            check_weight(row, f"{name} pair {row.get('id', index)}")
    with _without_max_length(args):  # TRL drops rows that max_length would empty
        prepared = tokenize_pairs(dataset, processing_class, args, name)

    def check(row: dict[str, Any], index: int) -> dict[str, Any]:
        where = f"{name} pair {row.get('id', index)}"
        check_weight(row, where)
        check_tokens(row, where, left_out=left_out(processing_class, row), args=args)
        return {ROW: index}

    if isinstance(prepared, IterableDataset):
        return prepared.map(check, with_indices=True)
    quiet = are_progress_bars_disabled()
    bar = tqdm(prepared, desc=f"checking {name} pairs", leave=False, disable=quiet)
    for index, row in enumerate(bar):
        check(row, index)
    if WEIGHT in prepared.column_names and not any(prepared[WEIGHT]):
        raise TrainingError(f"{name}: every pair has {WEIGHT} 0, so there is nothing to train on")
    if ROW in prepared.column_names:  # numbered before, maybe as part of more
        prepared = prepared.remove_columns(ROW)
    numbered: Dataset = prepared.add_column(ROW, range(len(prepared)))
    return numbered


def _as_python(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Rows as lists and text, whatever arrays a data set is set to; transforms stay."""
    if isinstance(dataset, Dataset) and dataset.format["type"] not in (None, "custom"):
        return dataset.with_format(None)
    return dataset


def _text_columns(dataset: Any) -> Any:
    """The columns of a pair that are text, and its weight, in every row."""
    if dataset.format["type"] == "custom":
        return dataset
    wanted = ("id", "chosen", "rejected", WEIGHT)
    return dataset.select_columns([c for c in wanted if c in dataset.column_names])


@contextlib.contextmanager
def _without_max_length(args: DPOConfig) -> Iterator[None]:
    max_length, args.max_length = args.max_length, None
    try:
        yield
    finally:
        args.max_length = max_length


def check_first_step(
    outcomes: PairOutcomes, objective: Objective, *, weight: float, tolerance: float
) -> None:
    """Refuse a run whose policy does not start at its reference.

    Args:
        outcomes: of the first batch, before any update.
        objective: what the run minimises.
        weight: sum of the weights of the objectives; no objective is steeper than 1.
        tolerance: nats by which a log-ratio may miss 0, times the square root of its tokens.

    Raises:
        TrainingError: says what to check.
    """
    chosen_limit, rejected_limit = (
        tolerance * objective.beta * tokens.sqrt() / (tokens if objective.length_normalize else 1)
        for tokens in (outcomes.chosen_tokens, outcomes.rejected_tokens)
    )
    at_zero = objective.at_zero
    rewards = torch.cat([outcomes.chosen_rewards, outcomes.rejected_rewards])
    limits = torch.cat([chosen_limit, rejected_limit])
    worst = _first_beyond(rewards, limits)
    if worst is not None:
        raise TrainingError(
            f"step 0: a reward is {rewards[worst].item():.4g} where the policy should equal its "
            f"reference (allowed: {limits[worst].item():.2g}). Check dropout (disable_dropout), an "
            "adapter that does not start at zero (init_lora_weights), and whether weights or "
            "reference log-probs changed since the trainer was made; a reference of another kind "
            "is passed as ref_model"
        )
    # what the rewards allow, and the rounding of the loss itself
    loss_limits = weight * (chosen_limit + rejected_limit + 1e-5)
    worst = _first_beyond(outcomes.losses - at_zero, loss_limits)
    if worst is not None:
        raise TrainingError(
            f"step 0: the loss is {outcomes.losses[worst].item():.4g} where the objective gives "
            f"{at_zero:.4g} for log-ratios of 0; check loss_type and loss_weights"
        )


def _first_beyond(values: Tensor, limits: Tensor) -> int | None:
    """The position of the first value that is not within its limit; NaN is not."""
    beyond = (~(values.abs() <= limits)).nonzero()
    return int(beyond[0]) if len(beyond) else None


def check_resumed_reference(
    kept: Sequence[float], found: Sequence[float], tokens: Sequence[int], *, tolerance: float
) -> None:
    """Refuse to go on against another reference than the run began with.

    Args:
        kept: what the reference said of both answers of the first pair when the run began.
        found: what it says now.
        tokens: of both answers.
        tolerance: nats by which a log-probability may differ, times the root of its tokens.

    Raises:
        TrainingError: says what to check.
    """
    for before, now, count in zip(kept, found, tokens, strict=True):
        if not abs(now - before) <= tolerance * count**0.5:
            raise TrainingError(
                f"the run began with a reference that gives the first pair {before:.4f}, this one "
                f"gives {now:.4f}: resume with the same model, reference, data and max_length, or "
                "start a new run in another output_dir"
            )


class StartGuard:
    """Stops a run whose policy does not start at its reference, or that resumes against another.

    Args:
        host: holds models, settings, data and state.
        rows: gives the policy's log-probs.
        reference: gives the reference's.
        batches: gives the first pairs, and the collator of the run.
        objective: what the run minimises.
        weight: sum of the weights of its losses.
        starts_at_reference: whether all rewards must be 0 before the first step.
        describe: says in words which pairs are trained on.
    """

    def __init__(
        self,
        host: Host,
        rows: RowRunner,
        reference: Reference,
        batches: PairBatches,
        objective: Objective,
        *,
        weight: float,
        starts_at_reference: bool,
        describe: Callable[[], str],
    ) -> None:
        self._checked = False
        self._host = host
        self._rows = rows
        self._reference = reference
        self._batches = batches
        self._objective = objective
        self._weight = weight
        self._starts_at_reference = starts_at_reference
        self._describe = describe

    def check(self, seen: Callable[[], PairOutcomes | None], batch: Mapping[str, Any]) -> None:
        """Check the first batch of a run; does nothing at later ones. All processes must call.

        Args:
            seen: gives the outcomes of all processes; None where TRL computes the loss, which is
                not checked.
            batch: the batch of this process that they are of, on its device.

        Raises:
            TrainingError: says what to check.
        """
        if self._checked:
            return
        self._checked = True
        outcomes = seen()
        if outcomes is None:
            return
        if self._host.state.global_step == 0 and self._starts_at_reference:
            try:
                self._check_first_step(outcomes)
            except TrainingError as fault:
                self._explain(fault, batch)
        elif self._host.state.global_step == 0:
            rewards = pair_metrics(outcomes, self._objective)
            logger.warning(
                "step 0: another reference was passed; mean rewards of the first batch: chosen "
                f"{rewards['rewards/chosen']:+.3f}, rejected {rewards['rewards/rejected']:+.3f}"
            )
        self._check_probe()

    @property
    def _tolerance(self) -> float:
        return logp_tolerance(self._host.accelerator, self._host.model)

    def _check_first_step(self, outcomes: PairOutcomes) -> None:
        check_first_step(outcomes, self._objective, weight=self._weight, tolerance=self._tolerance)

    def _explain(self, fault: TrainingError, batch: Mapping[str, Any]) -> None:
        """Go on where only noise keeps the policy from its reference, or a prompt that it learns.

        Raises:
            TrainingError: it is another; names what was found.
        """
        policy = self._reference.policy
        sources = noise_sources(self._host.args, policy)
        said = str(fault).split(". Check")[0]
        if self._differs_without_noise(batch):
            if learns_a_prompt(policy):
                logger.warning(f"{said}: the adapter learns a prompt, which does not start at zero")
                return
            found = "; ".join([*starts_elsewhere(policy), *sources])
            raise TrainingError(f"{fault}. Found: {found}" if found else str(fault)) from None
        known = "; ".join(sources) or "no source of it is known here"
        logger.warning(
            f"{said}: in eval mode they are equal, so this is noise of training mode, and training "
            f"goes on. Its source: {known}"
        )

    def _differs_without_noise(self, batch: Mapping[str, Any]) -> bool:
        """Whether the policy is another than its reference in eval mode, on some process."""
        accelerator = self._host.accelerator
        if uses_deepspeed(accelerator):
            return True  # its engine has stepped already
        batch = {key: value for key, value in batch.items() if key != WEIGHTS}
        with torch.no_grad(), in_eval_mode(self._host.model):
            forward = self._rows.forward(self._host.model_wrapped, batch, statistics=False)
            reference = self._reference.tokens(batch)
        outcomes = pair_outcomes(forward, reference, self._objective, rows_of(batch))
        try:
            self._check_first_step(outcomes)
            differs = 0.0
        except TrainingError:
            differs = 1.0
        found = torch.tensor(differs, device=accelerator.device)
        return bool(accelerator.reduce(found) > 0)

    def _check_probe(self) -> None:
        """Keep what the data is, and what the reference says of it, for a run that is resumed."""
        host = self._host
        if not isinstance(host.train_dataset, Dataset):
            return
        batch = self._batches.first(1, host.data_collator)
        found = [logps.item() for logps in self._reference.logps(batch)]
        described = self._describe()
        kept = host.state.stateful_callbacks.setdefault(PROBE, {"logps": found, "data": described})
        if not _same_data(kept["data"], described):
            raise TrainingError(
                f"the run began with other pairs ({kept['data']}) than these ({described}): resume "
                "with the same, or start in another output_dir"
            )
        if host.args.sync_ref_model:  # it moves, and comes with the checkpoint
            return
        tokens = batch["completion_mask"].sum(1).tolist()
        check_resumed_reference(kept["logps"], found, tokens, tolerance=self._tolerance)


def _same_data(before: str, now: str) -> bool:
    """Whether two descriptions are of the same pairs; how many are held out does not count."""
    digests = [re.search("digest ([0-9a-f]+)", text) for text in (before, now)]
    if all(digests):
        return len({found[1] for found in digests if found}) == 1
    return before == now
