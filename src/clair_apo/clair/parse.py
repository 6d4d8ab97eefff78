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


# {corrected_student_solution} at the beginning of a line: in any braces, or in none where a colon
# or the line's end follows; bold or in code marks, which may close before or after the colon
_IDENTIFIER = (
    r"(?im)^[ \t>#]*(?P<mark>[*_`]*)[ \t]*"
    r"(?:\{+\s*WORDS\s*\}+|WORDS(?=[ \t*_`]*(?::|$)))"
    r"(?:[ \t]*(?P=mark)[ \t]*:?|[ \t]*:[ \t]*(?P=mark))[ \t]*"
)
_WORDS = {
    "rationale": r"teacher\\?[_ ]reasoning",
    "text": r"corrected\\?[_ ]student\\?[_ ]solution",
}
_THINKING = re.compile(r"(?is)^\s*<think>.*?(?:</think>|\Z)")  # never closed: all was thinking
_PLACEHOLDER = "the whole revised answer"  # as the template spells it
_FENCE = re.compile(r"(?s)^\s*```\w*\n(.*)\n```\s*$")
_EDIT = re.compile(
    r"(?is)<edit>\s*<find>(?P<find>.*?)</find>"
    r"\s*(?:<replace>(?P<replace>.*?)</replace>|<replace\s*/>)\s*</edit>"
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
    text = _reply_proper(text)
    revised = _inside_tag(text, "revision")
    rationale = _inside_tag(text, "reasoning") or ""
    if revised is None:
        rationale, revised = _after_identifiers(text)
    if revised.strip() == _PLACEHOLDER:
        raise ParseError(DropReason.UNPARSED, "the reply only repeats the instructions")
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
    text = _reply_proper(text)
    block = _inside_tag(text, "edits")
    if block is None:
        raise ParseError(DropReason.UNPARSED, "the reply has no <edits> ... </edits>")
    edits = tuple(
        Edit(find=_without_frame(m["find"]), replace=_without_frame(m["replace"] or ""))
        for m in _EDIT.finditer(block)
    )
    rest = _EDIT.sub("", block).strip()
    if rest:
        raise ParseError(DropReason.UNPARSED, f"not an edit: {rest[:80]!r}")
    return ParsedEdits(edits=edits, rationale=(_inside_tag(text, "reasoning") or "").strip())


def _reply_proper(text: str) -> str:
    """The reply without thinking before it and a code fence around it, lines ending in LF."""
    text = _THINKING.sub("", text.replace("\r\n", "\n"))
    fenced = _FENCE.match(text)
    # an odd number of fences: the first and the last are not one pair
    return fenced[1] if fenced and len(re.findall(r"(?m)^\s*```", text)) % 2 == 0 else text


def _inside_tag(text: str, tag: str) -> str | None:
    """The content of the last closed pair of tags: an echo of the instructions stands before."""
    found = re.findall(rf"(?is)<{tag}>((?:(?!<{tag}>).)*?)</{tag}>", text)
    return str(found[-1]) if found else None


def _after_identifiers(text: str) -> tuple[str, str]:
    revised = _identifiers("text", text)
    if not revised:
        raise ParseError(
            DropReason.UNPARSED,
            "the reply has neither <revision> ... </revision> nor {corrected_student_solution}",
        )
    before, after = text[: revised[-1].start()], text[revised[-1].end() :]
    reasons = _identifiers("rationale", before)
    return before[reasons[-1].end() :] if reasons else before, after


def _identifiers(name: str, text: str) -> list[re.Match[str]]:
    return list(re.finditer(_IDENTIFIER.replace("WORDS", _WORDS[name]), text))


def _without_frame(passage: str) -> str:
    """Drop the one line break that a model puts after an opening and before a closing tag."""
    return passage.removeprefix("\n").removesuffix("\n")
