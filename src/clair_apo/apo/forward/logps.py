"""Log-probs of both answers of every pair, token by token, and TRL's padded forward.

A padded batch of B pairs has 2B rows of T tokens: the chosen answers first, then the rejected ones.
`completion_mask` marks the tokens of the answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clair_apo.apo.forward.batching import GIVEN_WEIGHTS, IMAGES, ROWS, TOKENS_PER_CHOSEN, WEIGHTS
from clair_apo.apo.forward.tree import IGNORED, flushed
from clair_apo.apo.trl_compat import fused_scores

_NOT_FOR_THE_MODEL = {
    "completion_mask",
    IMAGES,
    ROWS,
    TOKENS_PER_CHOSEN,
    WEIGHTS,
    GIVEN_WEIGHTS,
}


class PairLogps(NamedTuple):
    """Log-probabilities of both answers, each summed over its tokens, (B,)."""

    chosen: Tensor
    rejected: Tensor


class TokenLogps(NamedTuple):
    """Log-probabilities of the tokens of B answers, one answer after the other, no padding."""

    values: Tensor
    """(N,): N tokens in all, in float32 or better."""
    lengths: Tensor
    """(B,), int64: how many of them each answer has."""

    def sums(self) -> Tensor:
        """Log-probs summed over each answer, (B,)."""
        return padded(self.values, self.lengths).sum(1)

    def split(self) -> tuple[Tensor, ...]:
        """The tokens of each answer apart."""
        return tuple(torch.split(self.values, self.lengths.tolist()))


class PairForward(NamedTuple):
    """One forward over B pairs, the same from either layout."""

    chosen: TokenLogps
    """Log-probs of the chosen answers, with gradient."""
    rejected: TokenLogps
    first_differences: Tensor
    """(B,), int64: tokens that both answers begin with; the first difference comes after them."""
    entropy_sums: Tensor
    """(B,): entropy of the model, summed over the tokens of both answers; NaN if not asked for."""
    chosen_top1: Tensor
    """(N,), in the order of `chosen.values`: 1 where a token is the model's likeliest, else 0; NaN
    if not asked for."""
    sequence_tokens: Tensor
    """(B,): tokens of both sequences, prompts included and padding not."""
    positions: Tensor
    """(B,): what the model computed for each pair: more by padding, or fewer by sharing."""

    @property
    def top1_tokens(self) -> Tensor:
        """Tokens of each chosen answer that are the model's likeliest, (B,)."""
        return TokenLogps(self.chosen_top1, self.chosen.lengths).sums()

    @property
    def logps(self) -> PairLogps:
        """Log-probs summed over each answer, (B,) each, with gradient."""
        return PairLogps(self.chosen.sums(), self.rejected.sums())

    @property
    def chosen_tokens(self) -> Tensor:
        """Tokens of each chosen answer, (B,)."""
        return self.chosen.lengths

    @property
    def rejected_tokens(self) -> Tensor:
        """Tokens of each rejected answer, (B,)."""
        return self.rejected.lengths


def padded(values: Tensor, lengths: Tensor) -> Tensor:
    """Ragged values (N,) as rows (B, longest), padded with zeros on the right."""
    longest = int(lengths.max()) if len(lengths) else 0
    mask = torch.arange(longest, device=lengths.device) < lengths[:, None]
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def joined(forwards: list[PairForward]) -> PairForward:
    """Several forwards as one, in their order."""
    if len(forwards) == 1:
        return forwards[0]
    return PairForward(
        chosen=_joined_tokens([forward.chosen for forward in forwards]),
        rejected=_joined_tokens([forward.rejected for forward in forwards]),
        first_differences=torch.cat([forward.first_differences for forward in forwards]),
        entropy_sums=torch.cat([forward.entropy_sums for forward in forwards]),
        chosen_top1=torch.cat([forward.chosen_top1 for forward in forwards]),
        sequence_tokens=torch.cat([forward.sequence_tokens for forward in forwards]),
        positions=torch.cat([forward.positions for forward in forwards]),
    )


def in_batch_order(forward: PairForward, order: Sequence[int]) -> PairForward:
    """A forward of pairs that were taken in another order, in that of their batch.

    Args:
        forward: of B pairs.
        order: the position in the batch of each, (B,).
    """
    if list(order) == sorted(order):
        return forward
    back = torch.tensor(sorted(range(len(order)), key=lambda place: order[place]))

    def moved(tokens: TokenLogps) -> TokenLogps:
        answers = tokens.split()
        values = torch.cat([answers[place] for place in back.tolist()])
        return TokenLogps(values, tokens.lengths[back.to(tokens.lengths.device)])

    top1 = moved(TokenLogps(forward.chosen_top1, forward.chosen.lengths)).values
    return PairForward(
        chosen=moved(forward.chosen),
        rejected=moved(forward.rejected),
        chosen_top1=top1,
        **{
            name: getattr(forward, name)[back.to(forward.positions.device)]
            for name in ("first_differences", "entropy_sums", "sequence_tokens", "positions")
        },
    )


def _joined_tokens(sides: list[TokenLogps]) -> TokenLogps:
    return TokenLogps(
        torch.cat([side.values for side in sides]), torch.cat([side.lengths for side in sides])
    )


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a padded batch that the model itself takes."""
    return {
        key: value
        for key, value in batch.items()
        if key not in _NOT_FOR_THE_MODEL and not key.startswith("ref_")
    }


def padded_forward(model: Any, batch: Mapping[str, Tensor]) -> PairForward:
    """Run a model with TRL's fused head over a padded batch.

    Args:
        model: a causal model that `trl` gave a fused head, wrapped or not. Entropy and likeliest
            tokens are NaN where that head does not compute them (TRL's reference models).
        batch: `input_ids`, `attention_mask` and `completion_mask`, each (2B, T).
    """
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    outputs = fused_scores(model, model_inputs(batch) | {"use_cache": False}, labels=labels)
    mask = batch["completion_mask"][:, 1:].bool()  # position t predicts token t + 1
    width = mask.shape[1]  # prompt-learning adapters prepend positions of their own
    logps = outputs.log_probs[:, -width:]
    # a sum of 500 bfloat16 values is off by whole nats
    logps = logps.to(torch.promote_types(logps.dtype, torch.float32))
    sides = zip(logps.chunk(2), mask.chunk(2), strict=True)
    chosen, rejected = (TokenLogps(values[seen], seen.sum(1)) for values, seen in sides)
    chosen_entropies, rejected_entropies = _masked(outputs.entropy, mask).sum(1).chunk(2)
    return PairForward(
        chosen=chosen,
        rejected=rejected,
        first_differences=first_differences(batch),
        entropy_sums=chosen_entropies + rejected_entropies,
        chosen_top1=_masked(outputs.is_top1, mask).chunk(2)[0][mask.chunk(2)[0]],
        sequence_tokens=sequence_tokens(batch),
        positions=torch.full_like(chosen.lengths, 2 * batch["input_ids"].shape[1]),
    )


def sequence_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """Tokens of both sequences of each pair, (B,), from a padded batch (2B, T)."""
    chosen, rejected = batch["attention_mask"].bool().sum(1).chunk(2)
    return chosen + rejected


def first_differences(batch: Mapping[str, Tensor]) -> Tensor:
    """How many tokens both answers of each pair begin with, (B,), from a padded batch (2B, T)."""
    seen = batch["attention_mask"].bool()
    columns = flushed(seen, batch["input_ids"], seen, batch["completion_mask"].bool())
    ids, present, answers = (column.chunk(2) for column in columns)
    same = ((ids[0] == ids[1]) & present[0] & present[1]).cumprod(1)
    return (same[:, 1:] * answers[0][:, 1:]).sum(1)


def _masked(values: Tensor | None, mask: Tensor) -> Tensor:
    """Values of answer tokens, 0 elsewhere, as `mask`; NaN throughout where there are none."""
    if values is None:
        return torch.full(mask.shape, torch.nan, device=mask.device)
    return values.detach()[:, -mask.shape[1] :] * mask


class ReferenceTokens(NamedTuple):
    """Log-probs that the reference gives every scored token of B pairs."""

    chosen: TokenLogps
    rejected: TokenLogps
