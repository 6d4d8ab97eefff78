"""A reviser's reply to a revision: what was asked for, in the spellings that models use.

Replies in the format `full` carry `<reasoning>` and `<revision>`, or the identifiers of the
published recipe, `{teacher_reasoning}` and `{corrected_student_solution}`. Replies in the format
`edits` carry `<reasoning>` and `<edits>`; `clair_apo.clair.edits` applies them. Either may also
come as one JSON object with the same names.

What is read generously is the form, never the text: nothing is taken from a revised answer that
could be part of it. A chatty last sentence that no tag sets apart stays, for the gate to judge.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clair_apo.clair.edit_list import EditListError, edits_of_json, loose_edits, read_edits
from clair_apo.clair.edits import Edit
from clair_apo.clair.reply import reply_proper, whole_fence
from clair_apo.clair.sections import REASONING, SOLUTION, Section, headed, tagged
from clair_apo.records import DropReason

PARSER_VERSION = 2
"""Goes up whenever the same reply may be read differently; runs rebuild their revisions then."""


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


@dataclass(frozen=True)
class ParsedRevision:
    """A whole revised answer with the reasoning that led to it (empty where none was given)."""

    text: str
    rationale: str


@dataclass(frozen=True)
class ParsedEdits:
    """The replacements that a reviser asks for; none where nothing has to change."""

    edits: tuple[Edit, ...]
    rationale: str


# as the templates spell them
_PLACEHOLDERS = ("the whole revised answer", "...", "\u2026")
"""What the template, and a request to repair a reply, show between the tags."""
_EDIT_PLACEHOLDER = Edit("a passage of the answer", "what stands there instead")
# the template shows the answer between <answer> tags and each turn under its role
_ECHOED_TAG = re.compile(r"(?is)\A\s*<answer>(?P<text>(?:(?!</?answer>).)*)</answer>\s*\Z")
_ECHOED_ROLE = re.compile(r"(?i)\A\s*\[assistant\][ \t]*\n")


def parse_revision(text: str) -> ParsedRevision:
    """Read a reply in the format `full`.

    Of several revised answers the last one counts: drafts and echoes stand before it.

    Args:
        text: the reviser's whole reply. One that the token limit cut must not come here: a last
            tag that is never closed is taken to reach to the reply's end.

    Returns:
        The revised answer (`.text`) and the reasoning (`.rationale`, empty where none was given).

    Raises:
        ParseError: no revised answer in it; `.reason` says why.
    """
    text = reply_proper(text)
    revised = _chosen(_revised_answers(text))
    before, after = text[: revised.start], text[revised.start :]
    rationale, answer = _rationale(before) or _late_rationale(after), revised.text
    framed = whole_fence(rationale), whole_fence(answer)
    if framed[0] is not None and framed[1] is not None:  # a model that fences every part
        rationale, answer = framed[0], framed[1]
    echo = _ECHOED_TAG.match(answer)
    answer = _ECHOED_ROLE.sub("", echo["text"] if echo else answer)
    return ParsedRevision(text=answer.strip(), rationale=rationale.strip())


def parse_edits(text: str) -> ParsedEdits:
    """Read a reply in the format `edits`.

    Of several lists the last one counts. A list may be XML-like elements, with or without the
    frames `<edits>` and `<edit>`, or JSON objects with `find` and `replace`.

    Args:
        text: the reviser's whole reply; not one that the token limit cut.

    Raises:
        ParseError: no list of edits in it, or one that is not well formed.
    """
    text = reply_proper(text)
    try:
        edits, before = _edits(text)
    except EditListError as error:
        raise ParseError(DropReason.UNPARSED, str(error)) from None
    if edits == (_EDIT_PLACEHOLDER,):
        raise ParseError(DropReason.UNPARSED, "the reply only repeats the instructions")
    return ParsedEdits(edits=edits, rationale=_rationale(before).strip())


def _revised_answers(text: str) -> Sequence[Section]:
    """The parts of a reply that may be the revised answer, of the first spelling that occurs."""
    found = (
        tagged(text, f"revision|{SOLUTION}")
        or headed(text, SOLUTION, [REASONING])
        or headed(text, "revision", ["reasoning"], bare=False)
        or _under_plain_headings(text)
    )
    if found:
        return found
    value = _json_object(text, "revision")
    if isinstance(value, str):
        return [Section(len(text), value)]
    raise ParseError(
        DropReason.UNPARSED,
        "the reply has neither <revision> ... </revision> nor {corrected_student_solution}",
    )


def _under_plain_headings(text: str) -> Sequence[Section]:
    """`Reasoning:` and `Revision:`, without any brackets, where the reply begins with the first."""
    reasons = headed(text, "reasoning")
    if not reasons or text[: reasons[0].start].strip():
        return []
    return headed(text, r"revision|revised[ ]answer")[:1]


def _chosen(found: Sequence[Section]) -> Section:
    written = [section for section in found if section.text.strip()]
    if not written:
        raise ParseError(DropReason.EMPTY, "the revised answer has no text")
    own = [section for section in written if section.text.strip() not in _PLACEHOLDERS]
    if not own:
        raise ParseError(DropReason.UNPARSED, "the reply only repeats the instructions")
    return own[-1]


def _edits(text: str) -> tuple[tuple[Edit, ...], str]:
    """The edits of a reply, and what stands before them."""
    if re.search(r"(?i)<\s*edits\s*/\s*>", text):
        return (), text
    found = tagged(text, "edits")
    if found:
        return read_edits(found[-1].text), text[: found[-1].start]
    block = loose_edits(text)
    if block is not None:
        return read_edits(block), text[: text.index(block)]
    value = _json_object(text, "edits")
    if value is None:
        raise EditListError("the reply has no <edits> ... </edits>")
    return edits_of_json(value), text


def _rationale(before: str) -> str:
    """The reasoning in what stands before the revision; all of that where nothing names it."""
    if value := _json_object(before, "reasoning"):
        return str(value)
    named = (
        tagged(before, f"reasoning|{REASONING}")
        or headed(before, REASONING)
        or headed(before, "reasoning")
    )
    return named[-1].text if named else before


def _late_rationale(after: str) -> str:
    """The reasoning of a reply that gives it after the revised answer."""
    named = headed(after, REASONING) or tagged(after, "reasoning")
    return named[-1].text if named else ""


def _json_object(text: str, key: str) -> Any:
    """What a reply that is one JSON object has under a key; None where it is none."""
    bare = whole_fence(text) or text.strip()
    if not bare.startswith("{"):
        return None
    try:
        value = json.loads(bare, strict=False)  # models break lines inside strings
    except (ValueError, RecursionError):
        return None
    return value.get(key) if isinstance(value, dict) else None
