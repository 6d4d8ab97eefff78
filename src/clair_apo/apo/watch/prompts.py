"""Chooses the held-out prompts that a policy answers while it trains."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from clair_apo.apo.watch.answers import WatchedPrompt

DEFAULT = 8
"""Prompts that are answered where `watch_prompts` is not set."""
FEWEST_TOKENS, MOST_TOKENS = 64, 512
"""Tokens after which an answer is cut, at least and at most."""
TIMES_CHOSEN = 2
"""Answers are cut at so many times the longest chosen one, within the two numbers above: long
enough to tell an answer that ends from one that does not."""
_ROWS_FOR_ONE = 10
"""Rows of a stream that are looked at, for each prompt that is wanted."""


def watched_prompts(
    held_out: Any, count: int, processing_class: Any, positions: int | None
) -> list[WatchedPrompt]:
    """The first different prompts of the held-out pairs.

    Args:
        held_out: prepared pairs, a stream of them, or several by name.
        count: how many are wanted; there may be fewer.
        processing_class: the tokenizer.
        positions: tokens that the model takes at most; None where that is not known.
    """
    found: dict[tuple[int, ...], WatchedPrompt] = {}
    rows = itertools.islice(_rows(held_out), count * _ROWS_FOR_ONE)
    for number, row in enumerate(rows):
        tokens = tuple(int(token) for token in row["prompt_ids"])
        if tokens in found or (positions and len(tokens) + FEWEST_TOKENS > positions):
            continue
        found[tokens] = WatchedPrompt(
            id=str(row.get("id", number)),
            text=_text(row.get("prompt"), tokens, processing_class),
            tokens=list(tokens),
            chosen=_text(row.get("chosen"), row["chosen_ids"], processing_class),
            chosen_tokens=len(row["chosen_ids"]),
        )
        if len(found) == count:
            break
    return list(found.values())


def _rows(held_out: Any) -> Iterator[Mapping[str, Any]]:
    parts: Iterable[Any] = held_out.values() if isinstance(held_out, Mapping) else (held_out,)
    return itertools.chain.from_iterable(parts)


def _text(turns: Any, tokens: Sequence[int], processing_class: Any) -> str:
    """The text of a prompt or answer: that of its last turn, or of its tokens."""
    if isinstance(turns, str):
        return turns
    content = turns[-1].get("content") if turns else None
    if isinstance(content, str):
        return content
    return str(processing_class.decode(list(tokens), skip_special_tokens=True))


def answer_limit(prompts: Sequence[WatchedPrompt], positions: int | None) -> int:
    """Tokens after which an answer is cut.

    Args:
        prompts: at least one.
        positions: tokens that the model takes at most; None where that is not known.
    """
    wanted = TIMES_CHOSEN * max(prompt.chosen_tokens for prompt in prompts)
    limit = min(MOST_TOKENS, max(FEWEST_TOKENS, wanted))
    longest = max(len(prompt.tokens) for prompt in prompts)
    return min(limit, positions - longest) if positions else limit
