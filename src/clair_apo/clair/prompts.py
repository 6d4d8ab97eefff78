"""Prompts, read and checked one at a time: the first stage."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from clair_apo.clair.config import PromptsConfig
from clair_apo.errors import DataError
from clair_apo.records import Dropped, DropReason, Prompt, Stage, canonical_json
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


class PromptSurvey(NamedTuple):
    """What is known of the prompts before anything is written or asked."""

    prompts: int
    """Those that are used, duplicates among them."""
    given: int
    """Those that bring an answer."""
    digest: str
    """Of their ids and given answers: the same for the same prompts in the same order."""


def survey_prompts(config: PromptsConfig) -> PromptSurvey:
    """Read and check all prompts once, keeping none of them.

    Raises:
        DataError: as `load_prompts` does.
    """
    prompts = given = 0
    content = hashlib.sha256()
    for row in load_prompts(config):
        prompts += 1
        if isinstance(row, Prompt):
            given += bool(row.given)
            content.update(canonical_json([row.id, [a.model_dump() for a in row.given]]).encode())
        else:
            content.update(row.id.encode())
    return PromptSurvey(prompts, given, content.hexdigest())


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
    # the beginning of one shuffled order, so that fewer prompts are some of those of a larger limit
    order = list(range(total))
    random.Random(config.seed).shuffle(order)
    return set(order[: config.limit])
