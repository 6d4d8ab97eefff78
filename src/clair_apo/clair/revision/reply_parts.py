"""Finds what replies of several formats have in common: the reasoning, and a list of changes."""

import re
from collections.abc import Callable

from clair_apo.clair.revision.escapes import unescaped
from clair_apo.clair.revision.headings import REASONING, headed
from clair_apo.clair.revision.reply_text import NO_JSON, TEXTS, ReplyForm, json_value
from clair_apo.clair.revision.sections import (
    Section,
    SectionError,
    tagged,
    unclosed,
    without_reasoning,
)
from clair_apo.records import DropReason


class ParseError(ValueError):
    """A reply that is no revision.

    Attributes:
        reason: why, from the closed list (`unparsed`, `empty` or `edit_not_found`).
        faults: a sentence for each thing that is wrong; the message holds them all.
    """

    def __init__(self, reason: DropReason, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.reason = reason
        self.faults = faults


def value_of_json(text: str, key: str, form: ReplyForm = TEXTS) -> object:
    """What a reply that is one JSON object has under a key, as `json_value` reads it.

    Raises:
        ParseError: the reply begins such an object and cannot be read.
    """
    try:
        return json_value(text, key, form)
    except ValueError as error:
        raise ParseError(DropReason.UNPARSED, str(error)) from None


def last_list(
    text: str,
    name: str,
    answer: str,
    *,
    is_empty: Callable[[str], bool],
    loose: Callable[[str], tuple[int, int] | None],
    form: ReplyForm = TEXTS,
) -> tuple[Section, str]:
    """The last list of changes between the tags `<name>`, and what stands before it.

    Args:
        text: the reply.
        name: of the tags.
        answer: the text that was revised.
        is_empty: whether the content of a list says that nothing has to change.
        loose: finds changes that stand without the tags.
        form: of the reply.

    Returns:
        The list, with an empty text where nothing has to change.

    Raises:
        SectionError: there is none, it is not whole, or one with changes stands beside an empty
            one.
    """
    seen = without_reasoning(text, form.parts)
    found = tagged(text, name, answer=answer, seen=seen, counted=False)
    proper = [part for part in found if part.begins_line]
    self_closed = rf"<\s*{name}\s*/\s*>"
    alone = list(re.finditer(rf"(?im)(?:^[ \t*_`]*|>\s*){self_closed}[ \t*_`]*$", seen))
    filled = [part for part in proper if not is_empty(part.text)]
    last = max([part.start for part in proper] + [match.start() for match in alone], default=-1)
    if filled and filled[-1].start == last:
        return filled[-1], text[:last]
    if filled:
        raise SectionError(f"the reply has a list of {name} and an empty one", last)
    if last >= 0:
        return Section(last, last, ""), text[:last]
    written = [part for part in found if not is_empty(part.text)]
    if written:
        return written[-1], text[: written[-1].start]
    block = loose(seen)
    if block is not None:
        return Section(*block, text[slice(*block)]), text[: block[0]]
    if found or re.search(rf"(?i){self_closed}", seen):
        return Section(len(text), len(text), ""), text
    raise SectionError(f"the reply has no <{name}> ... </{name}>", len(text))


def rationale_of(before: str, form: ReplyForm = TEXTS) -> str:
    """The reasoning in what stands before the revision; all of that where nothing names it."""
    value = value_of_json(before, "reasoning", form)
    if value is not NO_JSON and value:
        return str(value)
    named = (
        _reasons_in_tags(before, f"reasoning|{REASONING}")
        or headed(before, REASONING)
        or headed(before, "reasoning")
    )
    return _plain(named[-1]) if named else before


def late_rationale_of(after: str) -> str:
    """The reasoning of a reply that gives it after the revised answer."""
    named = headed(after, REASONING) or _reasons_in_tags(after, "reasoning")
    return _plain(named[-1]) if named else ""


def _reasons_in_tags(text: str, name: str) -> list[Section]:
    try:
        return tagged(text, name)
    except SectionError:  # it is not the reasoning that has to be whole
        return unclosed(text, name)


def _plain(section: Section) -> str:
    return unescaped(section.text) if section.escaped else section.text
