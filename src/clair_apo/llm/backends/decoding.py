"""Generates the answers of a batch; rows that have ended make room.

Answers differ in length, and a batch takes as long as its longest. So generation halts where half
of the rows have ended, and goes on with the others and their part of the cache.

Shapes: B rows, T tokens of the longest prompt and what was generated, V words of the vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from clair_apo.float32_products import fast_float32_products
from clair_apo.records import Sampling


class Ends(NamedTuple):
    """Where answers end."""

    tokens: frozenset[int]
    """An answer ends with any of these."""
    max_tokens: int
    """Or after so many tokens, the ending one included."""
    pad: int
    """The token that fills shorter rows."""


class SeededSampling(LogitsProcessor):
    """Turns greedy decoding into sampling, with random numbers of each row's own.

    Adding Gumbel noise to the scaled logits and taking the largest draws from their softmax.

    Args:
        seeds: one of each row, of at most 63 bits.
        sampling: temperature (0 is greedy) and top-p; None leaves the model's distribution.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self._temperature = 1.0 if sampling.temperature is None else sampling.temperature
        self._top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        self._generators = [self._generators[row] for row in rows]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        """Scores (B, V) to scores whose argmax is the sampled token."""
        if self._temperature == 0:
            return scores
        scaled = torch.log_softmax(scores.float() / self._temperature, dim=-1)
        if self._top_p < 1:
            scaled = _keep_top_p(scaled, self._top_p)
        noise = torch.stack(
            [torch.empty(scaled.shape[-1]).exponential_(generator=g) for g in self._generators]
        )
        return scaled - noise.log().to(scaled.device)


class _HalfHaveEnded(StoppingCriteria):
    """Halts all rows where half of them have ended.

    Args:
        begin: the place of the first token that is generated.
        ends: the tokens that end an answer.
    """

    def __init__(self, begin: int, ends: frozenset[int]) -> None:
        self._begin, self._ends = begin, torch.tensor(sorted(ends))

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        """For rows of tokens (B, T): whether to halt, of each row (B)."""
        ended = torch.isin(input_ids[:, self._begin :], self._ends.to(input_ids.device)).any(1)
        return (2 * ended.sum() >= len(ended)).expand(len(ended))


def generate(
    model: Any, prompts: Sequence[list[int]], ends: Ends, draw: SeededSampling
) -> list[list[int]]:
    """Generate an answer to each prompt: its tokens, the ending one included.

    Args:
        model: a causal language model.
        prompts: the tokens of each.
        ends: where an answer ends.
        draw: has a seed for each prompt.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    ids, seen = _padded(prompts, ends.pad, model.device)
    cache, made = None, 0
    with torch.inference_mode(), fast_float32_products(model.device):
        while rows:
            output = _until_half_have_ended(model, ids, seen, cache, draw, ends, made)
            new = output.sequences[:, ids.shape[1] :]
            made += new.shape[1]
            kept = []
            for place, tokens in enumerate(new.tolist()):
                end = next((n for n, token in enumerate(tokens) if token in ends.tokens), None)
                answers[rows[place]] += tokens if end is None else tokens[: end + 1]
                if end is None and made < ends.max_tokens:
                    kept.append(place)
            rows = [rows[place] for place in kept]
            draw.keep(kept)
            ids = output.sequences[kept]
            seen = torch.cat([seen[kept], seen.new_ones(len(kept), new.shape[1])], dim=1)
            cache = _of_rows(output.past_key_values, kept)
    return answers


def _padded(prompts: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens (B, T), padded at the left, and which of them are the prompt's."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(one)) + one for one in prompts], device=device)
    seen = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    return ids, seen.to(device)


def _until_half_have_ended(
    model: Any,
    ids: Tensor,
    seen: Tensor,
    cache: DynamicCache | None,
    draw: SeededSampling,
    ends: Ends,
    made: int,
) -> Any:
    settings = GenerationConfig(
        max_new_tokens=ends.max_tokens - made,
        do_sample=False,
        eos_token_id=sorted(ends.tokens) or None,
        pad_token_id=ends.pad,
        return_dict_in_generate=True,
    )
    halts = [_HalfHaveEnded(ids.shape[1], ends.tokens)] if len(ids) > 1 and ends.tokens else []
    return model.generate(
        input_ids=ids,
        attention_mask=seen,
        generation_config=settings,
        logits_processor=LogitsProcessorList([draw]),
        stopping_criteria=StoppingCriteriaList(halts),
        **({"past_key_values": cache} if cache is not None else {}),
    )


def _of_rows(cache: Any, rows: Sequence[int]) -> DynamicCache | None:
    """What a cache holds of some rows; None where they have to be computed again."""
    if type(cache) is not DynamicCache or not rows:
        return None
    # a layer with a state beside its keys would keep the state of every row
    if any(
        not isinstance(one, DynamicLayer) or hasattr(one, "conv_states") for one in cache.layers
    ):
        return None
    cache.batch_select_indices(torch.tensor(rows))
    return cache


def _keep_top_p(log_probs: Tensor, top_p: float) -> Tensor:
    """Set all but the likeliest tokens that hold `top_p` of the probability to -inf."""
    ordered, order = log_probs.sort(dim=-1, descending=True)
    # a token stays while the likelier ones hold less than top_p: the first always stays
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    return log_probs.masked_fill((before >= top_p).gather(-1, order.argsort(-1)), -torch.inf)
