"""Prompts, read and checked one at a time: the first stage."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

from clair_apo.clair.config import PromptsConfig
from clair_apo.errors import DataError
from clair_apo.records import Dropped, DropReason, Prompt, Stage
from clair_apo.rows import prompt_from_row, read_rows


def load_prompts(config: PromptsConfig) -> Iterator[Prompt | Dropped]:
    """Read, check and draw the prompts, in the order of the data.

    A prompt that stood there before becomes a `Dropped` row. Of all prompts, 8 bytes each are held
    in memory; where `limit` draws some of them, the data is read twice.

    Raises:
        DataError: names file, line and what was expected: an unreadable line, a missing column, an
            empty or overlong prompt, no prompts at all.
    """
    drawn = _drawn(config)
    seen: set[int] = set()
    prompt = None
    for number, (where, row) in enumerate(read_rows(config.path, config.split)):
        if drawn is not None and number not in drawn:
            continue
        prompt = _checked(row, where, config)
        short_id = int(prompt.id, 16)
        if short_id in seen:
            yield Dropped(
                id=prompt.id,
                stage=Stage.LOAD,
                reason=DropReason.DUPLICATE,
                detail=f"{prompt.source}: the same prompt stood there before",
                raw=prompt.messages[-1].content,
            )
        else:
            seen.add(short_id)
            yield prompt
    if prompt is None:
        raise DataError(f"{config.path}: holds no prompts")


def _checked(row: Mapping[str, Any], where: str, config: PromptsConfig) -> Prompt:
    prompt = prompt_from_row(row, where, config.column)
    if config.ignore_given:
        prompt = prompt.model_copy(update={"given": ()})
    length = sum(len(message.content) for message in prompt.messages)
    if length > config.max_characters:
        raise DataError(
            f"{where}: the prompt has {length} characters, the limit is {config.max_characters}; "
            "shorten it or raise prompts.max_characters"
        )
    return prompt


def _drawn(config: PromptsConfig) -> set[int] | None:
    """The numbers of the rows that are used; None where all are. All rows are checked here."""
    if config.limit is None:
        return None
    total = 0
    for where, row in read_rows(config.path, config.split):
        _checked(row, where, config)
        total += 1
    if config.limit >= total:
        return None
    return set(random.Random(config.seed).sample(range(total), config.limit))
