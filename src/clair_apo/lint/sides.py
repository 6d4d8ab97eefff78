"""What one pair shows by itself: equal sides, refusals, languages, leaked prompts and marks."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unicodedata import normalize

from rapidfuzz.distance import Levenshtein

from clair_apo.clair.filters.contamination import SHORTEST_PASSAGE
from clair_apo.lint.rows import PairRow
from clair_apo.lint.rules import LANGUAGE_CONFIDENCE, NEAR_IDENTICAL
from clair_apo.text.detectors import is_refusal, language_of
from clair_apo.text.words import words_of

_LANGUAGE_CHARACTERS = 400
"""Of a side that its language is told by: more would take time and change nothing."""
_MARK = re.compile(
    r"<\|[A-Za-z][\w ]{0,40}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
    r"|<\uff5c[^\uff5c\n]{1,40}\uff5c>"
)
_ROLE = re.compile(
    r"(?m)^(?:Human|Assistant|#{1,6} ?(?:Instruction|Response|Human|Assistant)):(?=\s)"
)


class Hit(NamedTuple):
    """What a rule found in a pair."""

    rule: str
    detail: str = ""


def look_at_sides(row: PairRow) -> Iterator[Hit]:
    """What the rules about one pair find in it."""
    for look in (_alike, _leaked_prompt, _refusals, _languages, _marks):
        yield from look(row)


def _alike(row: PairRow) -> Iterator[Hit]:
    chosen, rejected = (normalize("NFC", text.strip()) for text in (row.chosen, row.rejected))
    if chosen == rejected:
        yield Hit("identical_sides")
        return
    longer = max(len(chosen), len(rejected))
    most = int(NEAR_IDENTICAL * longer)
    if abs(len(chosen) - len(rejected)) > most:
        return
    distance = Levenshtein.distance(chosen, rejected, score_cutoff=most)
    if distance <= most:
        yield Hit("near_identical_sides", f"{distance} of {longer:,} characters differ")


def _leaked_prompt(row: PairRow) -> Iterator[Hit]:
    prompt, chosen, rejected = map(_folded, (row.asked, row.chosen, row.rejected))
    in_chosen, in_rejected = prompt in chosen, prompt in rejected
    if in_chosen != in_rejected and len(words_of(prompt)) >= SHORTEST_PASSAGE:
        yield Hit("prompt_in_one_side", f"in {'chosen' if in_chosen else 'rejected'}")


def _refusals(row: PairRow) -> Iterator[Hit]:
    chosen, rejected = is_refusal(row.chosen), is_refusal(row.rejected)
    if chosen != rejected:
        yield Hit("refusal_in_chosen" if chosen else "refusal_in_rejected")


def _languages(row: PairRow) -> Iterator[Hit]:
    chosen, rejected = (
        language_of(text[:_LANGUAGE_CHARACTERS], LANGUAGE_CONFIDENCE)
        for text in (row.chosen, row.rejected)
    )
    if chosen and rejected and chosen != rejected:
        yield Hit("language_gap", f"chosen {chosen}, rejected {rejected}")


def _marks(row: PairRow) -> Iterator[Hit]:
    texts: tuple[tuple[str, str, Callable[[str], re.Match[str] | None]], ...] = (
        ("prompt", row.prompt, _MARK.search),
        ("chosen", row.chosen, _mark_or_role),
        ("rejected", row.rejected, _mark_or_role),
    )
    for place, text, search in texts:
        if found := search(text):
            yield Hit("template_marks", f"{found[0].strip()} in {place}")
            return


def _mark_or_role(text: str) -> re.Match[str] | None:
    return _MARK.search(text) or _ROLE.search(text)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
