"""One forward over pairs that share their beginning: trees in, log-probs of every token out.

It goes through the wrapped model's own forward, where DDP, FSDP and PEFT have their hooks. Where
TRL's fused head scores labelled positions only, it is used; elsewhere
`label_logprobs.score_labels` is.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from transformers import PreTrainedModel

from clair_apo.apo.forward.attention import FLEX_ATTENTION, attends_to_trees
from clair_apo.apo.forward.label_logprobs import LabelScores, score_labels
from clair_apo.apo.forward.logps import PairForward, TokenLogps, model_inputs, sequence_tokens
from clair_apo.apo.forward.tree import IGNORED, PackedRow, packed_row, pair_trees
from clair_apo.apo.trl_compat import fused_scores, is_peft_model, is_triton_available
from clair_apo.errors import TrainingError


def shared_prefix_forward(
    model: Any, batch: Mapping[str, Tensor], *, statistics: bool, kernel: str = FLEX_ATTENTION
) -> PairForward:
    """Run a model over a padded batch, as one packed row without the padding.

    Args:
        model: a causal model that `layout_choice.choose_layout` accepts, wrapped or not.
        batch: `input_ids`, `attention_mask` and `completion_mask`, each (2B, T).
        statistics: whether entropies and likeliest tokens are wanted.
        kernel: of `attention.tree_kernels`.

    Raises:
        TrainingError: the batch has more for the model than tokens.
    """
    if columns := columns_beside_trees(model, batch):
        raise TrainingError(
            f"a batch carries {columns[0]} for the model, which is lost where pairs share their "
            "beginning; set pair_layout to padded"
        )
    bare = bare_model(model)
    row = packed_row(pair_trees(batch)).to(bare.device)
    inputs = {
        "input_ids": row.ids,
        "position_ids": row.positions,
        "attention_mask": row.lengths,
        "use_cache": False,
    }
    with attends_to_trees(bare, kernel):
        if bare.device.type in ("cuda", "xpu") and is_triton_available():
            scores = _with_trls_head(model, inputs, row)
        else:
            with _scores_labels(bare, statistics):
                scores = model(**inputs, labels=row.labels)
    return _of_pairs(scores, row, sequence_tokens(batch))


def columns_beside_trees(model: Any, batch: Mapping[str, Any]) -> list[str]:
    """Columns of a padded batch that the model has a name for, and that trees cannot pass on."""
    named = inspect.signature(bare_model(model).forward).parameters
    known = ("input_ids", "attention_mask")
    return [key for key in model_inputs(batch) if key in named and key not in known]


def bare_model(model: Any) -> PreTrainedModel:
    """The transformers model inside of DDP, FSDP, an engine or an adapter."""
    inner = extract_model_from_parallel(model)
    bare: PreTrainedModel = inner.get_base_model() if is_peft_model(inner) else inner
    return bare


def model_name(model: Any) -> str:
    """What a model, wrapped or adapted or neither, is called; empty where it has no name."""
    return short_name(str(bare_model(model).config.name_or_path or ""))


def short_name(name: str) -> str:
    """A model's name; of a folder the last part, since where it lay matters to no reader."""
    name = name.rstrip("/")
    return name.split("/")[-1] if name.startswith(("/", ".", "~")) else name


def _with_trls_head(model: Any, inputs: Mapping[str, Any], row: PackedRow) -> LabelScores:
    outputs = fused_scores(model, inputs, shift_labels=row.labels)
    labelled = row.labels != IGNORED
    logps = outputs.log_probs[labelled]
    nothing = torch.full_like(logps, torch.nan)
    known = (outputs.entropy, outputs.is_top1)
    return LabelScores(
        logps.to(torch.promote_types(logps.dtype, torch.float32)),
        *(nothing if x is None else x.detach()[labelled].to(nothing.dtype) for x in known),
    )


@contextlib.contextmanager
def _scores_labels(model: PreTrainedModel, statistics: bool) -> Iterator[None]:
    """Let a model return `LabelScores` of its labels; its head runs inside its own forward."""

    def forward(*args: Any, labels: Tensor, **kwargs: Any) -> LabelScores:
        hidden = model.base_model(*args, **kwargs).last_hidden_state
        head = model.get_output_embeddings()
        labelled = labels != IGNORED
        return score_labels(
            hidden[labelled], head.weight, head.bias, labels[labelled], statistics=statistics
        )

    own = model.__dict__.get("forward")
    model.forward = forward
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


def _of_pairs(scores: LabelScores, row: PackedRow, tokens: Tensor) -> PairForward:
    chosen, rejected = (
        LabelScores(*(values[labels] for values in scores)) for labels in (row.chosen, row.rejected)
    )
    chosen_entropies, rejected_entropies = (
        TokenLogps(side.entropies, lengths).sums()
        for side, lengths in ((chosen, row.chosen_lengths), (rejected, row.rejected_lengths))
    )
    return PairForward(
        chosen=TokenLogps(chosen.logps, row.chosen_lengths),
        rejected=TokenLogps(rejected.logps, row.rejected_lengths),
        first_differences=row.first_differences,
        entropy_sums=chosen_entropies + rejected_entropies,
        chosen_top1=chosen.is_top1,
        sequence_tokens=tokens,
        positions=row.lengths[0, 0].sum(1),
    )
