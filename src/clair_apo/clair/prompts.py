"""Prompts in, from wherever they are: the first stage."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from clair_apo.clair.config import PromptsConfig
from clair_apo.errors import DataError
from clair_apo.records import Dropped, DropReason, Prompt, Stage, prompt_from_row
from clair_apo.rows import read_rows


def load_prompts(config: PromptsConfig) -> Iterator[Prompt | Dropped]:
    """Read, check and draw the prompts, in the order of the data.

    A prompt that stood there before becomes a `Dropped` row.

    Raises:
        DataError: names file, line and what was expected: an unreadable line, a missing column, an
            empty or overlong prompt, no prompts at all.
    """
    prompts = [_checked(row, where, config) for where, row in read_rows(config.path, config.split)]
    if not prompts:
        raise DataError(f"{config.path}: holds no prompts")
    seen = set()
    for prompt in _drawn(prompts, config):
        if prompt.id in seen:
            yield Dropped(
                id=prompt.id,
                stage=Stage.LOAD,
                reason=DropReason.DUPLICATE,
                detail=f"{prompt.source}: the same prompt stood there before",
                raw=prompt.messages[-1].content,
            )
        else:
            seen.add(prompt.id)
            yield prompt


def _checked(row: Mapping[str, Any], where: str, config: PromptsConfig) -> Prompt:
    prompt = prompt_from_row(row, where, config.column)
    length = sum(len(message.content) for message in prompt.messages)
    if length > config.max_characters:
        raise DataError(
            f"{where}: the prompt has {length} characters, the limit is {config.max_characters}; "
            "shorten it or raise prompts.max_characters"
        )
    return prompt


def _drawn(prompts: Sequence[Prompt], config: PromptsConfig) -> Iterable[Prompt]:
    if config.limit is None or config.limit >= len(prompts):
        return prompts
    drawn = random.Random(config.seed).sample(range(len(prompts)), config.limit)
    return [prompts[index] for index in sorted(drawn)]
