"""One forward over pairs without padding: trees in, log-probs of every token out.

It goes through the wrapped model's own forward, where DDP, FSDP and PEFT have their hooks, up to
the head (`head`); labelled positions alone are scored, by the function of TRL's fused head where
that has a kernel, elsewhere by `label_logprobs.score_labels`.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from transformers import PreTrainedModel

from clair_apo.apo.forward.attention import FLEX_ATTENTION, SEQUENCES, attends_to_trees
from clair_apo.apo.forward.head import UnknownHeadError, head_input
from clair_apo.apo.forward.label_logprobs import (
    LabelScores,
    score_labels,
    score_labels_by_trl,
)
from clair_apo.apo.forward.logps import PairForward, TokenLogps, model_inputs, sequence_tokens
from clair_apo.apo.forward.tree import IGNORED, PackedRow, packed_row, pair_trees
from clair_apo.apo.forward.tree_mask import row_of_trees
from clair_apo.apo.trl_compat import (
    gathered_head,
    is_peft_model,
    is_triton_available,
    whole_head,
)
from clair_apo.errors import TrainingError


def shared_prefix_forward(
    model: Any, batch: Mapping[str, Tensor], *, statistics: bool, kernel: str = FLEX_ATTENTION
) -> PairForward:
    """Run a model over a padded batch, as one packed row without the padding.

    Args:
        model: a causal model that `layout_choice.choose_layout` accepts, wrapped or not.
        batch: `input_ids`, `attention_mask` and `completion_mask`, each (2B, T).
        statistics: whether entropies and likeliest tokens are wanted.
        kernel: of `attention.tree_kernels`, or `SEQUENCES`, which shares nothing.

    Raises:
        TrainingError: the batch has more for the model than tokens.
    """
    if columns := columns_beside_trees(model, batch):
        raise TrainingError(
            f"a batch carries {columns[0]} for the model, which is lost where pairs share their "
            "beginning; set pair_layout to padded"
        )
    bare = bare_model(model)
    on_cpu = packed_row(pair_trees(batch, shared=kernel != SEQUENCES))
    places = (on_cpu.labels[0] != IGNORED).nonzero()[:, 0].to(bare.device)
    row = on_cpu.to(bare.device)
    inputs = {
        "input_ids": row.ids,
        "position_ids": row.positions,
        "attention_mask": torch.ones_like(row.ids),
        "use_cache": False,
    }
    if kernel == SEQUENCES:
        inputs |= sequence_boundaries(on_cpu.lengths, bare.device)
    labelled = _scores_labels(bare, places, row.labels[0, places], statistics)
    with attends_to_trees(bare, kernel), row_of_trees(on_cpu.lengths), labelled:
        scores = model(**inputs)
    return _of_pairs(scores, row, sequence_tokens(batch))


def sequence_boundaries(lengths: Tensor, device: torch.device) -> dict[str, Any]:
    """Where the S sequences of a row of N tokens begin, in every form that layers take.

    Args:
        lengths: `PackedRow.lengths`, (1, 1, P, 3), on the CPU; the trunks are empty.
        device: of the row.

    Returns:
        `seq_idx`, (1, N): the number of each token's sequence; `cu_seq_lens_q` and `cu_seq_lens_k`,
        (S + 1,): where each begins, and N; `max_length_q` and `max_length_k`, tokens of the
        longest. Tensors are int32, as the kernels want them.
    """
    sizes = lengths.flatten()
    sizes = sizes[sizes > 0]
    numbers = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(sizes)
    starts = F.pad(sizes.cumsum(0), (1, 0)).to(device, torch.int32)
    longest = int(sizes.max())
    return {
        "seq_idx": numbers[None].to(device),
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": longest,
        "max_length_k": longest,
    }


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


@contextlib.contextmanager
def _scores_labels(
    model: PreTrainedModel, places: Tensor, labels: Tensor, statistics: bool
) -> Iterator[None]:
    """Let a model return `LabelScores` of the labels at these places of its row.

    Its head is scored inside its own forward: there, FSDP has gathered it.
    """
    own = model.__dict__.get("forward")
    own_forward = model.forward

    def forward(**inputs: Any) -> LabelScores:
        head: Any = model.get_output_embeddings()
        states, logit_map = head_input(own_forward, head, inputs)
        if states.shape[:-1] != inputs["input_ids"].shape:
            raise UnknownHeadError(f"the model's head is given {tuple(states.shape[:-1])} states")
        weight, bias = whole_head(head)
        score = score_labels_by_trl if scores_with_trls_head(states.device) else score_labels
        with gathered_head(weight, bias):
            return score(
                states[0, places], weight, bias, labels, statistics=statistics, logit_map=logit_map
            )

    model.forward = forward
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


def scores_with_trls_head(device: torch.device) -> bool:
    """Whether labels are scored by TRL's fused head, which has a kernel there."""
    return device.type in ("cuda", "xpu") and is_triton_available()


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
