"""Loads the prompts of a run: reads, checks and draws them, and drops repeated ones.

This file holds the config of the prompts (`PromptsConfig`), the two readings of the data, and the
search for duplicates (`SeenPrompts`) and for near-duplicates (`SimilarPrompts`).

The data is read twice. `survey_prompts` reads all of it before anything is written or asked: a
faulty last row stops a run at once, and the digest tells whether a folder belongs to other prompts.
`load_prompts`, the first stage, reads it again and writes the prompts down. One reading would have
to hold all prompts in memory, or overwrite the file of another run before that is known.
"""

import hashlib
import random
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from clair_apo.clair.filters.contamination import ContaminationIndex
from clair_apo.config import Section
from clair_apo.errors import DataError
from clair_apo.ingest.arrow_rows import Row
from clair_apo.ingest.rows import prompt_columns, prompt_from_row, read_rows
from clair_apo.records import Dropped, DropReason, Prompt, Stage, canonical_json
from clair_apo.run_folder import Shard
from clair_apo.text.near_duplicates import NearDuplicates


class PromptsConfig(Section):
    """Where the prompts are from."""

    path: str
    """A JSONL or Parquet file, a folder saved by `datasets`, or a data set's name on the hub."""
    column: str | None = None
    """The column with the prompt; by default the first of the usual names that the data has."""
    split: str = "train"
    """The split of a hub data set or `datasets` folder that has several."""
    limit: int | None = Field(None, gt=0)
    """Use so many prompts, drawn with `seed`; by default all."""
    seed: int = 0
    """Decides which prompts `limit` draws."""
    max_characters: int = Field(32_000, gt=0)
    """A longer prompt stops the run before anything is asked."""
    ignore_given: bool = False
    """Have the target model answer also where the data brings answers, such as gold ones."""
    contamination: tuple[str, ...] = ()
    """Test sets, as `path` names prompts: what shares a passage with one of them is dropped."""
    ngram: int = Field(13, ge=5)
    """Words in a row that make a shared passage; of a shorter question the whole of it."""
    near_duplicates: float | None = Field(None, ge=0.7, le=1)
    """Drop a prompt that is as similar to an earlier one: the Jaccard similarity of their runs of
    three words, estimated by MinHash (0.7 to 1; near_duplicate). System turns do not count. By
    default only prompts that differ in how they are typed are dropped."""


class PromptSurvey(NamedTuple):
    """What is known of the prompts before anything is written or asked."""

    prompts: int
    """All that are used, with the duplicates among them."""
    given: int
    """Those that bring an answer, of those that are not dropped at once."""
    waiting: int
    """Those that bring none."""
    digest: str
    """Of their ids and given answers: the same for the same prompts in the same order."""
    tests: ContaminationIndex
    """The test sets that they were compared with."""


def survey_prompts(config: PromptsConfig, shard: Shard | None = None) -> PromptSurvey:
    """Read and check all prompts, or those of a shard, once, keeping none of them.

    Raises:
        DataError: as `load_prompts` does.
    """
    tests = ContaminationIndex(config.contamination, config.ngram)
    prompts = given = waiting = 0
    content = hashlib.sha256()
    for row in load_prompts(config, shard, tests):
        prompts += 1
        if isinstance(row, Prompt):
            given += bool(row.given)
            waiting += not row.given
            content.update(canonical_json([row.id, [a.model_dump() for a in row.given]]).encode())
        else:
            content.update(row.id.encode())
    return PromptSurvey(prompts, given, waiting, content.hexdigest(), tests)


def load_prompts(
    config: PromptsConfig,
    shard: Shard | None = None,
    tests: ContaminationIndex | None = None,
) -> Iterator[Prompt | Dropped]:
    """Read, check and draw the prompts, in the order of the data.

    A prompt that stood there before, or nearly so, or shares a passage with a test set, becomes a
    `Dropped` row. Of all prompts, digests of 16 bytes each are held in memory, and with
    `near_duplicates` sketches of about 400 bytes; where `limit` draws some of them, the data is
    read twice.

    Args:
        config: where the prompts are from.
        shard: the part of those that are drawn; by default all.
        tests: the index of `config.contamination`, where it is made already.

    Raises:
        DataError: names file, line and what was expected: an unreadable line, a missing column, an
            empty or overlong prompt, no prompts at all, a test set that asks nothing.
    """
    if tests is None:
        tests = ContaminationIndex(config.contamination, config.ngram)
    drawn = _drawn(config)
    # rows name the file alone: they go to others, and every machine is to make the same ones
    path = Path(config.path).expanduser()
    folder = f"{path.parent}/" if path.exists() else ""
    seen = SeenPrompts()
    similar = SimilarPrompts(config.near_duplicates) if config.near_duplicates else None
    found = False
    for number, (where, row) in enumerate(_rows(config)):
        if drawn is not None and number not in drawn:
            continue
        prompt = _checked(row, where, config)
        prompt = prompt.model_copy(update={"source": where.removeprefix(folder)})
        # duplicates among all prompts, whatever part of them is asked for
        duplicate = seen.check(prompt) or (similar and similar.check(prompt))
        if shard and not shard.holds(prompt.id):
            continue
        found = True
        yield duplicate or tests.check(prompt) or prompt
    if not found:
        of = f" of shard {shard.name}: use fewer shards" if shard else ""
        raise DataError(f"{config.path}: holds no prompts{of}")


def _rows(config: PromptsConfig) -> Iterator[Row]:
    return read_rows(config.path, config.split, prompt_columns(config.column))


def _checked(row: Mapping[str, Any], where: str, config: PromptsConfig) -> Prompt:
    prompt = prompt_from_row(row, where, config.column, with_given=not config.ignore_given)
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
    for where, row in _rows(config):
        _checked(row, where, config)
        total += 1
    if config.limit >= total:
        return None
    # the beginning of one shuffled order, so that fewer prompts are some of those of a larger limit
    order = list(range(total))
    random.Random(config.seed).shuffle(order)
    return set(order[: config.limit])


class SeenPrompts:
    """The prompts so far, as two 64-bit digests for each.

    Two prompts are near-duplicates where case, runs of blanks and the full stop or question mark
    at the end are all that tells them apart. All other punctuation counts: `3+4` is not `3-4`.
    """

    def __init__(self) -> None:
        self._first: dict[int, int] = {}

    def check(self, prompt: Prompt) -> Dropped | None:
        """Remember a new prompt; for another, the dropped row that names the earlier one."""
        typed = [(message.role, _as_if_typed_alike(message.content)) for message in prompt.messages]
        digest = hashlib.sha256(repr(typed).encode()).digest()
        key, own = int.from_bytes(digest[:8]), int(prompt.id, 16)
        if key not in self._first:
            self._first[key] = own
            return None
        first = self._first[key]
        how = (
            "the same prompt stood there before"
            if first == own
            else f"prompt {first:016x} stood there before, and differs only in how it is typed"
        )
        return Dropped(
            id=prompt.id,
            stage=Stage.LOAD,
            reason=DropReason.DUPLICATE,
            detail=f"{prompt.source}: {how}",
            raw=prompt.messages[-1].content,
        )


class SimilarPrompts:
    """The prompts so far, as sketches of what users and assistants say in them.

    Args:
        threshold: the Jaccard similarity from which on a prompt is a near-duplicate.
    """

    def __init__(self, threshold: float) -> None:
        self._texts = NearDuplicates(threshold)

    def check(self, prompt: Prompt) -> Dropped | None:
        """Remember a new prompt; for a near-duplicate, the dropped row that names the earlier one.

        A near-duplicate is not remembered: prompts are compared with those that stay.
        """
        # a system turn that all prompts share would make them alike
        said = [turn.content for turn in prompt.messages if turn.role != "system"]
        match = self._texts.check("\n".join(said), prompt.id)
        if match is None:
            return None
        return Dropped(
            id=prompt.id,
            stage=Stage.LOAD,
            reason=DropReason.NEAR_DUPLICATE,
            detail=(
                f"{prompt.source}: prompt {match.name} stood there before, and is alike by "
                f"{match.similarity:.2f} (near-duplicates: {self._texts.threshold:g})"
            ),
            raw=prompt.messages[-1].content,
        )


def _as_if_typed_alike(text: str) -> str:
    # NFC, not NFKC: that would make an x squared an x2
    words = unicodedata.normalize("NFC", text).casefold().split()
    return " ".join(words).rstrip(".?\u2026 ")
