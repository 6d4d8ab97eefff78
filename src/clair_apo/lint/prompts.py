"""What several rows show together: repeated prompts and pairs, contradictions, other data.

Held in memory are digests, sketches and the places of rows, no texts: less than 1 KB a pair.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clair_apo.clair.filters.contamination import TEST_SPLITS
from clair_apo.errors import DataError
from clair_apo.ingest.pairs import pair_from_row
from clair_apo.ingest.rows import SIDES, prompt_from_row, read_rows
from clair_apo.lint.rows import PairRow, said, text_key
from clair_apo.lint.rules import NEAR_DUPLICATE
from clair_apo.lint.sides import Hit
from clair_apo.records import digest
from clair_apo.text.near_duplicates import NearDuplicates


class EarlierRows:
    """The pairs so far, for a look at each new one."""

    def __init__(self) -> None:
        self._prompts: dict[int, int] = {}
        self._pairs: dict[int, str] = {}
        self._texts = NearDuplicates(NEAR_DUPLICATE)

    @property
    def prompts(self) -> int:
        """How many different prompts there are."""
        return len(self._prompts)

    def prompt_number(self, row: PairRow) -> int:
        """The number of a row's prompt, from 0 in the order in which they came."""
        return self._prompts[row.prompt_key]

    def look(self, row: PairRow) -> Iterator[Hit]:
        """What the rules about earlier rows find in a row, which is remembered."""
        before = len(self._prompts)
        is_new = self._prompts.setdefault(row.prompt_key, before) == before
        same = self._pair_hit(row)
        if same:
            yield same
        elif not is_new:
            yield Hit("repeated_prompt")
        near = self._texts.check(row.prompt, row.where) if is_new else None
        if near:
            yield Hit("near_duplicate_prompt", f"{near.similarity:.2f} with {near.name}")

    def _pair_hit(self, row: PairRow) -> Hit | None:
        """Whether the two answers stood there before, for the same prompt."""
        sides = text_key(row.chosen), text_key(row.rejected)
        if sides[0] == sides[1]:
            return None
        same, swapped = (
            int(digest([row.prompt_key, *order])[:16], 16) for order in (sides, sides[::-1])
        )
        if where := self._pairs.get(swapped):
            return Hit("swapped_pair", f"the other way round: {where}")
        if where := self._pairs.setdefault(same, row.where):
            return Hit("repeated_pair", f"as {where}") if where != row.where else None
        return None


class OtherPrompts:
    """The prompts of other data, to look up those of pairs in.

    Args:
        names: files, folders or hub names; of several splits the first of `TEST_SPLITS`.
        splits: more splits of the data `own`.
        own: the data that the pairs are from.

    Raises:
        DataError: some data cannot be read, or has no row with a prompt.
    """

    def __init__(self, names: Sequence[str], splits: Sequence[str] = (), own: str = "") -> None:
        self._keys: dict[int, str] = {}
        self._texts = NearDuplicates(NEAR_DUPLICATE)
        for name, split in (*((own, split) for split in splits), *((n, None) for n in names)):
            for where, text in _prompts(name, split):
                where = f"{where} of {split}" if split else where
                self._keys.setdefault(text_key(text), where)
                self._texts.check(text, where)

    def look(self, row: PairRow) -> Iterator[Hit]:
        """Where the other data hold the prompt of a pair, or one that is nearly the same."""
        if where := self._keys.get(row.prompt_key):
            yield Hit("prompt_in_other_data", f"as {where}")
        elif near := self._texts.find(row.prompt):
            yield Hit("near_prompt_in_other_data", f"{near.similarity:.2f} with {near.name}")


def _prompts(name: str, split: str | None) -> Iterator[tuple[str, str]]:
    """The prompts of some data with their places; rows without one are left out."""
    first: DataError | None = None
    found = False
    for where, row in read_rows(name, split or TEST_SPLITS):
        try:
            text = _prompt_text(row, where)
        except DataError as error:
            first = first or error
            continue
        found = True
        yield where, text
    if not found:
        raise first or DataError(f"{name}: holds no prompts to compare with")


def _prompt_text(row: Mapping[str, Any], where: str) -> str:
    if all(side in row for side in SIDES):
        return said(pair_from_row(row, where).prompt, "user", "assistant")
    return said(prompt_from_row(row, where, with_given=False).messages, "user", "assistant")
