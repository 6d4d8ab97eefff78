"""A reviser's reply to a revision: what was asked for, in the spellings that models use.

Replies in the format `full` carry `<reasoning>` and `<revision>`, or the identifiers of the
published recipe, `{teacher_reasoning}` and `{corrected_student_solution}`. Replies in the format
`edits` carry `<reasoning>` and `<edits>`; `clair_apo.clair.edits` applies them.
"""

import re
from dataclasses import dataclass

from clair_apo.clair.edits import Edit
from clair_apo.records import DropReason

PARSER_VERSION = 1
"""Goes up whenever the same reply may be read differently; runs rebuild their revisions then."""


class ParseError(ValueError):
    """A reply that is no revision.

    Attributes:
        reason: why, from the closed list (`unparsed`, `empty` or `edit_not_found`).
    """

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


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


# {corrected_student_solution}: with or without braces, bold, heading marks, escaped underscores
# or a colon, at the beginning of a line
_IDENTIFIER = r"(?im)^[ \t>#*_`]*\{{?\s*%s\s*\}}?[ \t*_`]*:?[ \t*_`]*"
_WORDS = {
    "rationale": r"teacher(?:\\?[_\s])reasoning",
    "text": r"corrected(?:\\?[_\s])student(?:\\?[_\s])solution",
}
_THINKING = re.compile(r"(?is)^\s*<think>.*?</think>")
_EDIT = re.compile(
    r"(?is)<edit>\s*<find>(?P<find>.*?)</find>\s*<replace>(?P<replace>.*?)</replace>\s*</edit>"
)


def parse_revision(text: str) -> ParsedRevision:
    """Read a reply in the format `full`.

    Args:
        text: the reviser's whole reply.

    Returns:
        The revised answer (`.text`) and the reasoning (`.rationale`, empty where none was given).

    Raises:
        ParseError: no revised answer in it; `.reason` says why.
    """
    text = _THINKING.sub("", text)
    revised = _inside_tag(text, "revision")
    rationale = _inside_tag(text, "reasoning") or ""
    if revised is None:
        rationale, revised = _after_identifiers(text)
    if not revised.strip():
        raise ParseError(DropReason.EMPTY, "the revised answer has no text")
    return ParsedRevision(text=revised.strip(), rationale=rationale.strip())


def parse_edits(text: str) -> ParsedEdits:
    """Read a reply in the format `edits`.

    Args:
        text: the reviser's whole reply.

    Raises:
        ParseError: no list of edits in it, or one that is not well formed.
    """
    text = _THINKING.sub("", text)
    block = _inside_tag(text, "edits")
    if block is None:
        raise ParseError(DropReason.UNPARSED, "the reply has no <edits> ... </edits>")
    edits = tuple(
        Edit(find=_without_frame(m["find"]), replace=_without_frame(m["replace"]))
        for m in _EDIT.finditer(block)
    )
    rest = _EDIT.sub("", block).strip()
    if rest:
        raise ParseError(DropReason.UNPARSED, f"not an edit: {rest[:80]!r}")
    return ParsedEdits(edits=edits, rationale=(_inside_tag(text, "reasoning") or "").strip())


def _inside_tag(text: str, tag: str) -> str | None:
    """The content of the last closed pair of tags: an echo of the instructions stands before."""
    found = re.findall(rf"(?is)<{tag}>((?:(?!<{tag}>).)*?)</{tag}>", text)
    return str(found[-1]) if found else None


def _after_identifiers(text: str) -> tuple[str, str]:
    revised = list(re.finditer(_IDENTIFIER % _WORDS["text"], text))
    if not revised:
        raise ParseError(
            DropReason.UNPARSED,
            "the reply has neither <revision> ... </revision> nor {corrected_student_solution}",
        )
    before, after = text[: revised[-1].start()], text[revised[-1].end() :]
    rationale = re.split(_IDENTIFIER % _WORDS["rationale"], before)[-1]
    return rationale, after


def _without_frame(passage: str) -> str:
    """Drop the one line break that a model puts after an opening and before a closing tag."""
    return passage.removeprefix("\n").removesuffix("\n")
