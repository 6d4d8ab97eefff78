"""Single tokens that a sum over an answer hides: its end, and where both answers part.

They come from the forward of a training step and cost no other. Answers are followed up to their
end token: generation stops there, and what a chat template writes after it is never generated.

B is the number of pairs, N the tokens of their answers in all.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clair_apo.apo.forward.logps import PairForward, ReferenceTokens, TokenLogps, padded

TAIL = 3
"""Tokens at the end of an answer among which its end token is: templates close a turn with one or
two special tokens and at most a newline."""


class AnswerEnds(NamedTuple):
    """Where the answers of B pairs end, (B,) each: the place of the end token, from 0; else -1.

    A truncated answer has no end token.
    """

    chosen: Tensor
    rejected: Tensor


class TokenFigures(NamedTuple):
    """What a policy and its reference say of single tokens of B pairs.

    Every field is (B,), without gradient; NaN where a pair has no such token.
    """

    chosen_end_logps: Tensor
    """Of the end token after the chosen answer."""
    rejected_end_logps: Tensor
    ref_chosen_end_logps: Tensor
    ref_rejected_end_logps: Tensor
    chosen_first_difference_logps: Tensor
    """Of the first token of the chosen answer that the rejected one does not have there."""
    rejected_first_difference_logps: Tensor
    ref_chosen_first_difference_logps: Tensor
    ref_rejected_first_difference_logps: Tensor
    chosen_hardest_logps: Tensor
    """The lowest of a token of the chosen answer from the first difference to its end."""
    followed_shares: Tensor
    """Of these tokens, the share that greedy decoding gives before it leaves the chosen answer."""


def end_token_ids(processing_class: Any, model: Any) -> frozenset[int]:
    """The tokens at which generation stops.

    Args:
        processing_class: tokenizer or processor.
        model: bare; its generation config may name several.
    """
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    settings = getattr(model, "generation_config", None)
    named = (getattr(tokenizer, "eos_token_id", None), getattr(settings, "eos_token_id", None))
    return frozenset(
        token
        for found in named
        for token in (found if isinstance(found, Iterable) else (found,))
        if token is not None
    )


def answer_ends(batch: Mapping[str, Tensor], end_tokens: frozenset[int]) -> AnswerEnds:
    """Where the answers of a padded batch end.

    Args:
        batch: `input_ids` and `completion_mask`, each (2B, T), chosen answers first.
        end_tokens: from `end_token_ids`.
    """
    ids, mask = batch["input_ids"][:, 1:], batch["completion_mask"][:, 1:].bool()
    places = mask.cumsum(1) - 1
    lengths = mask.sum(1)
    is_end = torch.isin(ids, torch.tensor(sorted(end_tokens), device=ids.device, dtype=ids.dtype))
    is_end &= mask & (places >= lengths[:, None] - TAIL)
    never = mask.shape[1]
    first = places.masked_fill(~is_end, never).amin(1)
    return AnswerEnds(*first.masked_fill(first == never, -1).chunk(2))


def token_figures(
    forward: PairForward, reference: ReferenceTokens, ends: AnswerEnds
) -> TokenFigures:
    """What policy and reference say of single tokens.

    Args:
        forward: of B pairs through the policy.
        reference: of the same tokens.
        ends: of their answers.
    """
    found: dict[str, Tensor] = {}
    sides = (("chosen", forward.chosen, ends.chosen), ("rejected", forward.rejected, ends.rejected))
    with torch.no_grad():
        for side, policy, end in sides:
            for prefix, tokens in (("", policy), ("ref_", getattr(reference, side))):
                found[f"{prefix}{side}_end_logps"] = _at(tokens, end)
                found[f"{prefix}{side}_first_difference_logps"] = _at(
                    tokens, forward.first_differences
                )
        return TokenFigures(
            **found,
            chosen_hardest_logps=_hardest(forward, ends.chosen),
            followed_shares=_followed(forward, ends.chosen),
        )


def _at(tokens: TokenLogps, places: Tensor) -> Tensor:
    """The value at one place of each answer, (B,); NaN where the place is beyond the answer."""
    values, lengths = tokens.values.detach(), tokens.lengths
    places = places.to(lengths.device)
    within = (places >= 0) & (places < lengths)
    absolute = lengths.cumsum(0) - lengths + places
    found = values.new_full(lengths.shape, torch.nan)
    found[within] = values[absolute[within]]
    return found


def _after_parting(forward: PairForward, ends: Tensor) -> Tensor:
    """Which tokens of each chosen answer lie from the first difference to the end, (B, longest)."""
    lengths = forward.chosen.lengths
    places = torch.arange(int(lengths.max()), device=lengths.device)
    stops = torch.where(ends < 0, lengths, ends + 1)
    return (places >= forward.first_differences[:, None]) & (places < stops[:, None])


def _hardest(forward: PairForward, ends: Tensor) -> Tensor:
    chosen, counts = forward.chosen, _after_parting(forward, ends)
    values = padded(chosen.values.detach(), chosen.lengths)
    lowest = values.masked_fill(~counts, torch.inf).amin(1)
    return lowest.masked_fill(~counts.any(1), torch.nan)


def _followed(forward: PairForward, ends: Tensor) -> Tensor:
    chosen, counts = forward.chosen, _after_parting(forward, ends)
    likeliest = padded(forward.chosen_top1.to(chosen.values.dtype), chosen.lengths)
    unbroken = likeliest.masked_fill(~counts, 1).cumprod(1)
    return (unbroken * counts).sum(1) / counts.sum(1)  # 0 / 0 is the NaN that is wanted
