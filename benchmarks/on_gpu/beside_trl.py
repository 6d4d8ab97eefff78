"""A training step of `APOTrainer` beside TRL's `DPOTrainer` at its fastest, on a random Llama.

All have the reference computed before training, weights and optimizer states in bf16 and no
gradient checkpointing. Each takes as much of a step at a time as fits into memory: TRL pairs of a
micro-batch, ours tokens of a row, both halved until nothing runs out. TRL scores labelled
positions only, by its fused head. It ignores `padding_free` for pairs, so it cannot pack.
"""

import gc
import statistics
import tempfile
from typing import Any

import torch

from on_gpu.machine import product_rate
from on_gpu.models import (
    VOCABULARY,
    Lengths,
    llama,
    pair_lengths,
    random_model,
    rows,
    tokenizer,
)
from on_gpu.training import Clock, peak_gib, settings

OURS = "clair_apo"
CONTENDERS = {OURS: "sdpa", "trl_sdpa": "sdpa", "trl_flash": "flash_attention_2"}
"""Each with the attention that its model is given; trees have one of their own."""
STEP = {"toy": 4, "1b": 32, "8b": 16}
"""Pairs of a step."""
WARM_UP, COUNTED = 2, 3
MOST_TOKENS = 65_536
"""Tokens of a row with which ours begins."""


def operations(lengths: list[Lengths], model: Any, *, shared: bool) -> float:
    """Operations of one step, forward and backward, without padding and recomputation.

    Args:
        lengths: of the pairs of the step.
        model: counts its weights.
        shared: whether what both answers begin with is computed once.
    """
    from clair_apo.apo.forward.operations import ModelSize

    size = ModelSize.of(model)
    total = 0.0
    for pair in lengths:
        labels = pair.chosen + pair.rejected
        tokens = pair.tree if shared else pair.sequences
        total += size.operations(tokens, labels, pair.sequences / 2)
    return 3 * total


def trainer_of(
    contender: str, size: str, device: str, lengths: list[Lengths], **options: Any
) -> Any:
    """A trainer that has computed its reference, and the clock of its steps."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from clair_apo.apo import APOConfig, APOTrainer

    config = llama(size)
    model = random_model(config, device, torch.float32 if device == "cpu" else torch.bfloat16)
    if device == "cuda":
        model.set_attn_implementation(CONTENDERS[contender])
    kind, config_kind = (APOTrainer, APOConfig) if contender == OURS else (DPOTrainer, DPOConfig)
    clock = Clock(device)
    trainer = kind(
        model=model,
        args=config_kind(**options),
        train_dataset=Dataset.from_list(rows(lengths, VOCABULARY[size], 0)),
        processing_class=tokenizer(VOCABULARY[size]),
        callbacks=[clock],
    )
    return trainer, clock


def steps(contender: str, size: str, kind: str, device: str, part: int) -> dict[str, Any]:
    """Seconds of a step where each takes the `part`-th part of the most at a time."""
    pairs = STEP[size]
    scale = 0.05 if size == "toy" else 1.0
    lengths = pair_lengths(kind, pairs, 0, scale)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"max_steps": WARM_UP + COUNTED, "num_train_epochs": 99}
        options |= {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 1}
        if contender == OURS:
            options |= {"reference_cache": folder, "watch_prompts": 0}
            options |= {"max_tokens_per_batch": MOST_TOKENS // part}
        else:
            options |= {"per_device_train_batch_size": pairs // part}
            options |= {"gradient_accumulation_steps": part}
        whole = {"per_device_train_batch_size": pairs}
        given = settings(folder, device, **(whole | options))
        trainer, clock = trainer_of(contender, size, device, lengths, **given)
        work = operations(lengths, trainer.model, shared=contender == OURS)
        trainer.train()
    way = {"way": str(trainer.layout.proof)} if contender == OURS else {}
    seconds = statistics.median(clock.seconds[WARM_UP:])
    return {
        **way,
        "seconds": seconds,
        "pairs/s": pairs / seconds,
        "tokens/s": sum(pair.sequences for pair in lengths) / seconds,
        "operations/s": work / seconds,
        "peak GiB": peak_gib(device),
        "parts": part,
    }


def run(device: str, size: str, contender: str, *, toy: bool) -> dict[str, Any]:
    """One contender on a size of model: pairs as long as real ones, and pairs of edits."""
    size = "toy" if toy else size
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    rate = product_rate(device, dtype, 512 if toy else 8192, 0.3 if toy else 1.0)
    figures = {}
    for kind in ("real", "edits"):
        found = _fitting(contender, size, kind, device)
        found["MFU"] = found.pop("operations/s") / rate
        figures[kind] = found
    return {"bf16 TFLOP/s" if device == "cuda" else "fp32 TFLOP/s": rate / 1e12, **figures}


def _fitting(contender: str, size: str, kind: str, device: str) -> dict[str, Any]:
    part = 1
    while True:
        try:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            return steps(contender, size, kind, device, part)
        except Exception as error:  # torch's, or ours that names the pairs
            fits_not = "out of memory" in f"{error} {error.__cause__}".lower()
            if not fits_not or part >= STEP[size]:
                raise
        part *= 2
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
