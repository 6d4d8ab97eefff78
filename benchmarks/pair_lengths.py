"""Pairs as long as real ones, of random words: for measurements that need lengths and no meaning.

The lengths are those of answers of Meta-Llama-3-8B-Instruct and gpt-4-0125-preview to 406
instructions of AlpacaEval, in tokens of SmolLM2 with its chat template. Only their quantiles are
here. The answers of a pair share 1 token on average, so all that can be shared is the prompt.
"""

import random
import re
from statistics import NormalDist
from typing import Any, NamedTuple

# 0 %, 5 %, 10 %, ..., 100 %
PROMPT = [34, 37, 39, 40, 41, 43, 45, 47, 48, 51, 53, 54, 57, 60, 66, 72, 81, 93, 109, 156, 425]
CHOSEN = [3, 22, 68, 110, 163, 194, 286, 358, 416, 457, 488, 508, 539, 574, 591, 615, 650, 680, 736]
CHOSEN += [809, 1199]
REJECTED = [5, 59, 98, 150, 205, 260, 310, 336, 383, 426, 466, 484, 523, 554, 574, 593, 624, 664]
REJECTED += [710, 801, 1561]
ANSWERS_TOGETHER = 0.82
"""Correlation of the normal scores of both answers' lengths; that of their ranks is 0.81."""


class PairLength(NamedTuple):
    """Tokens of one pair."""

    prompt: int
    chosen: int
    rejected: int

    @property
    def tree(self) -> int:
        """Tokens with the prompt once."""
        return sum(self)


def real_lengths(count: int, seed: int) -> list[PairLength]:
    """Lengths with the quantiles above, the same for the same seed."""
    draw, normal = random.Random(seed), NormalDist()
    found = []
    for _ in range(count):
        first, other = draw.gauss(), draw.gauss()
        second = ANSWERS_TOGETHER * first + (1 - ANSWERS_TOGETHER**2) ** 0.5 * other
        found.append(
            PairLength(
                prompt=_quantile(PROMPT, draw.random()),
                chosen=_quantile(CHOSEN, normal.cdf(first)),
                rejected=_quantile(REJECTED, normal.cdf(second)),
            )
        )
    return found


def even_lengths(count: int, tokens: int) -> list[PairLength]:
    """Pairs of so many tokens each: an eighth is prompt, and both answers are equally long."""
    prompt = tokens // 8
    chosen = (tokens - prompt) // 2
    return [PairLength(prompt, chosen, tokens - prompt - chosen)] * count


def rows(lengths: list[PairLength], tokenizer: Any, seed: int) -> list[dict[str, str]]:
    """Rows of plain text with exactly these lengths in tokens, end-of-text token included."""
    words = [t for t in tokenizer.get_vocab() if re.fullmatch("Ġ[a-z]{3,8}", t)]
    words = sorted(word.replace("Ġ", " ") for word in words)
    draw = random.Random(seed)

    def text(tokens: int) -> str:
        return "".join(draw.choices(words, k=tokens))

    return [
        {
            "prompt": text(pair.prompt),
            "chosen": text(pair.chosen - 1),
            "rejected": text(pair.rejected - 1),
        }
        for pair in lengths
    ]


def _quantile(table: list[int], share: float) -> int:
    position = share * (len(table) - 1)
    below = min(int(position), len(table) - 2)
    low, high = table[below], table[below + 1]
    return max(2, round(low + (position - below) * (high - low)))
