"""Finds what a run folder has lost: answers that left the store, and damaged files.

A crash, a torn write-ahead log or a store that was brought back from a copy may take answers that
a run had used already. Its files name the requests, also those that it was still writing.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from clair_apo.clair.stages.table import STAGES
from clair_apo.llm import RequestStore
from clair_apo.run_folder import RunFolder

# a quote inside a text is escaped, so that no text can spell this
_KEYS = re.compile(rb'"request_keys":\[("[0-9a-f]{64}"(?:,"[0-9a-f]{64}")*)\]')
_KEYS_AT_ONCE = 500


class Losses(NamedTuple):
    """What a run folder has lost since it was last used."""

    answers: int
    """Answers that its files name and the store does not hold."""
    files: tuple[str, ...]
    """Files that are gone, or not as they were written."""

    def sentence(self, store: Path) -> str:
        """What was lost, for a person; empty where nothing was.

        Args:
            store: the store's file.
        """
        said = []
        if self.answers:
            said.append(
                f"{self.answers} answers that this run had are not in {store} any more: they are "
                "asked for again"
            )
        if self.files:
            are = "are" if len(self.files) > 1 else "is"
            said.append(
                f"{', '.join(self.files)} {are} not as this run wrote them, and made again from "
                "the store"
            )
        return "; ".join(said)


def find_losses(folder: RunFolder, store: RequestStore) -> Losses:
    """Compare a run folder with its manifest and its store; to be called before it is written to.

    Args:
        folder: of a run, of whatever state.
        store: that the run uses.
    """
    missing: set[str] = set()
    named = _named_keys(folder)
    while keys := list(islice(named, _KEYS_AT_ONCE)):
        missing.update(store.missing(keys))
    return Losses(len(missing), tuple(folder.changed_files()))


def _named_keys(folder: RunFolder) -> Iterator[str]:
    for name in {file.name for stage in STAGES.values() if stage.role for file in stage.files}:
        # what a killed run was writing, and what an earlier one had written
        for path in (*folder.path.glob(f".{name}.*.part"), folder.file(name)):
            if path.is_file():
                yield from _keys_in(path)


def _keys_in(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file:
            for keys in _KEYS.findall(line):
                yield from keys.decode().replace('"', "").split(",")
