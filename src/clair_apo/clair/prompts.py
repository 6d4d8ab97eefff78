"""Prompts in, from wherever they are: the first stage."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clair_apo.clair.config import PromptsConfig
from clair_apo.errors import DataError
from clair_apo.records import (
    Dropped,
    DropReason,
    Prompt,
    Stage,
    prompt_from_row,
    read_json_rows,
)

Row = tuple[str, dict[str, Any]]
"""Where a row stands, and the row."""


def load_prompts(config: PromptsConfig) -> Iterator[Prompt | Dropped]:
    """Read, check and draw the prompts, in the order of the data.

    A prompt that stood there before becomes a `Dropped` row.

    Raises:
        DataError: names file, line and what was expected: an unreadable line, a missing column, an
            empty or overlong prompt, no prompts at all.
    """
    prompts = [_checked(row, where, config) for where, row in _rows(config)]
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


def _checked(row: dict[str, Any], where: str, config: PromptsConfig) -> Prompt:
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


def _rows(config: PromptsConfig) -> Iterator[Row]:
    path = Path(config.path).expanduser()
    if path.is_dir():
        yield from _folder_rows(path, config.split)
    elif path.suffix in (".jsonl", ".json", ".ndjson"):
        yield from ((f"{path}:{number}", row) for number, row in read_json_rows(path))
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.exists():
        raise DataError(f"{path}: expected a .jsonl or .parquet file, or a folder")
    else:
        yield from _hub_rows(config.path, config.split)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None


def _folder_rows(path: Path, split: str) -> Iterator[Row]:
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a folder saved by datasets ({error})") from None
    yield from _dataset_rows(
        _of_split(data, split, path) if isinstance(data, DatasetDict) else data, path
    )


def _of_split(data: Any, split: str, path: Path) -> Any:
    if split not in data:
        raise DataError(f"{path}: has no split {split!r}, but {', '.join(data)}")
    return data[split]


def _hub_rows(name: str, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise DataError(f"{name}: there is no such file or folder")
    try:
        data = load_dataset(name, split=split)
    except Exception as error:  # the hub client raises errors of many libraries
        raise DataError(
            f"{name}: no such file or folder, and no data set of that name could be loaded "
            f"({type(error).__name__})"
        ) from None
    yield from _dataset_rows(data, name)


def _dataset_rows(data: Any, name: Path | str) -> Iterator[Row]:
    for number, row in enumerate(data):
        yield f"{name}: row {number}", row
