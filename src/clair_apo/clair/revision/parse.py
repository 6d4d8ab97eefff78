"""Reads a reviser's reply: the revision, the edits or the segments, as models spell them.

Replies in the format `full` carry `<reasoning>` and `<revision>`, or the identifiers of the
published recipe, `{teacher_reasoning}` and `{corrected_student_solution}`. Replies in the format
`edits` carry `<reasoning>` and `<edits>`; `clair_apo.clair.revision.edits` applies them. Those in
the format `segments` carry `<reasoning>` and `<segments>`, for `clair_apo.clair.revision.segments`.
Each may also come as one JSON object with the same names.

The form is read generously, the text never: nothing is removed from a revised answer that could be
part of it, by comparison with the answer that was revised. A chatty last sentence that no tag sets
apart stays, and the gate may drop it. A part that is opened and not closed is no revision; only
identifiers and headings have no closing tag.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from clair_apo.clair.answer_text import indentation, trimmed
from clair_apo.clair.revision import edit_list, segment_list
from clair_apo.clair.revision.edit_list import EditListError
from clair_apo.clair.revision.edits import Edit
from clair_apo.clair.revision.escapes import (
    EscapeError,
    from_escaped_tags,
    refuse_doubtful_escapes,
    refuse_spelled_breaks,
    unescaped,
)
from clair_apo.clair.revision.headings import REASONING, SOLUTION, headed
from clair_apo.clair.revision.reply_parts import (
    ParseError,
    last_list,
    late_rationale_of,
    rationale_of,
    value_of_json,
)
from clair_apo.clair.revision.reply_text import (
    NO_JSON,
    SEGMENTS,
    has_open_fence,
    strip_reply,
    whole_fence,
)
from clair_apo.clair.revision.sections import Section, SectionError, tagged, without_reasoning
from clair_apo.clair.revision.segments import SegmentChange
from clair_apo.records import DropReason, Located, PlacedEdit

PARSER_VERSION = 7
"""Goes up whenever the same reply may be read differently; runs rebuild their revisions then."""


@dataclass(frozen=True)
class ParsedRevision:
    """A whole revised answer with the reasoning that led to it (empty where none was given).

    Attributes:
        text: the revised answer.
        rationale: the reasoning.
        located: how edits were found in the answer; None in other formats.
        edits: what was put where in the answer, in its order; None in the format `full`.
    """

    text: str
    rationale: str
    located: Located | None = None
    edits: tuple[PlacedEdit, ...] | None = None


@dataclass(frozen=True)
class ParsedEdits:
    """The replacements that a reviser asks for; none where nothing has to change."""

    edits: tuple[Edit, ...]
    rationale: str


@dataclass(frozen=True)
class ParsedSegments:
    """The segments that a reviser changes; none where nothing has to change."""

    changes: tuple[SegmentChange, ...]
    rationale: str


# as the templates spell them
_PLACEHOLDERS = ("the whole revised answer", "...", "\u2026")
"""What the template, and a request to repair a reply, show between the tags."""
_EDIT_PLACEHOLDER = Edit("a passage of the answer", "what stands there instead")
_SEGMENT_PLACEHOLDER = SegmentChange(2, 2, "what stands there instead")
# the template shows the answer between <answer> tags and each turn under its role
_ECHOED_TAG = re.compile(r"(?is)\A\s*<answer>(?P<text>(?:(?!</?answer>).)*)</answer>\s*\Z")
_ECHOED_ROLE = re.compile(r"(?i)\A\s*\[assistant\][ \t]*\n(?=\s*\S)")
_ENDED = re.compile(rf"(?i)[<\[{{]\s*/\s*(?:{REASONING})")
_SOLUTION_ENDED = re.compile(rf"(?i)[<\[{{]\s*/\s*(?:{SOLUTION})|&lt;\s*/\s*(?:{SOLUTION})")
_OUR_TAG = re.compile(r"(?i)<\s*/?\s*(?:reasoning|revision)\s*>")


def parse_revision(text: str, answer: str) -> ParsedRevision:
    """Read a reply in the format `full`.

    Of several revised answers the last one counts: drafts and echoes stand before it.

    Args:
        text: the reviser's whole reply. One that the token limit cut must not come here: under
            an identifier or a heading, the revised answer reaches to the reply's end.
        answer: the text that was revised. What it contains itself is text in the reply as well.

    Returns:
        The revised answer (`.text`, without outer blank lines and trailing blanks) and the
        reasoning (`.rationale`, empty where none was given).

    Raises:
        ParseError: no whole revised answer in it, or one that can be read in two ways; `.reason`
            says why.
    """
    text = strip_reply(text, answer)
    try:
        revised = _chosen(_revised_answers(text, answer))
        before, after = text[: revised.start], text[revised.end :]
        rationale = rationale_of(before) or late_rationale_of(after)
        return ParsedRevision(
            text=_text_of(revised, rationale, answer),
            rationale=(whole_fence(rationale) or rationale).strip(),
        )
    except (SectionError, EscapeError) as error:
        raise ParseError(DropReason.UNPARSED, str(error)) from None


def parse_edits(text: str, answer: str) -> ParsedEdits:
    """Read a reply in the format `edits`.

    Of several lists the last one counts. A list may be XML-like elements, with or without the
    frames `<edits>` and `<edit>`, or JSON objects with `find` and `replace`. Where the whole reply
    is escaped as XML is, which its passages tell, it is decoded.

    Args:
        text: the reviser's whole reply; not one that the token limit cut.
        answer: the text that is to be edited.

    Raises:
        ParseError: no list of edits in it, or one that is not whole, not well formed, or can be
            read in two ways.
    """
    text = strip_reply(text, answer)
    try:
        edits, before = _edits(text, answer)
    except (EditListError, SectionError, EscapeError) as error:
        raise ParseError(DropReason.UNPARSED, str(error)) from None
    if edits == (_EDIT_PLACEHOLDER,):
        raise ParseError(DropReason.UNPARSED, "the reply only repeats the instructions")
    return ParsedEdits(edits=edits, rationale=rationale_of(before).strip())


def parse_segments(text: str, answer: str) -> ParsedSegments:
    """Read a reply in the format `segments`.

    Of several lists the last one counts. A list may be elements with or without the frame
    `<segments>`, lines that begin with a number, or JSON objects with `n` and `text`.

    Args:
        text: the reviser's whole reply; not one that the token limit cut.
        answer: the text that was shown in segments.

    Raises:
        ParseError: no list of segments in it, or one that is not whole, not well formed, or can be
            read in two ways. Whether there are such segments is found out where they are applied.
    """
    text = strip_reply(text, answer, SEGMENTS)
    try:
        changes, before = _segments(text, answer)
    except (EditListError, SectionError, EscapeError) as error:
        raise ParseError(DropReason.UNPARSED, str(error)) from None
    if changes == (_SEGMENT_PLACEHOLDER,):
        raise ParseError(DropReason.UNPARSED, "the reply only repeats the instructions")
    return ParsedSegments(changes=changes, rationale=rationale_of(before, SEGMENTS).strip())


_Form = Callable[[], Sequence[Section]]


def _revised_answers(text: str, answer: str) -> Sequence[Section]:
    """The parts of a reply that may be the revised answer, in the form that it begins with."""
    value = value_of_json(text, "revision")
    if isinstance(value, str):
        return [Section(len(text), len(text), value)]
    seen = without_reasoning(text)
    forms: tuple[_Form, ...] = (
        partial(tagged, text, "revision", answer=answer, seen=seen),
        partial(_in_their_tags, text, answer, seen),
        partial(_under_their_headings, text, answer, seen),
        partial(_under_our_headings, text, answer, seen),
    )
    found: list[Sequence[Section]] = []
    broken: list[SectionError] = []
    for form in forms if value is NO_JSON else ():
        try:
            found.append(form())
        except SectionError as error:
            broken.append(error)
    by_lines = [[part for part in parts if part.begins_line] for parts in found]
    first = min(
        (parts for parts in by_lines if parts), key=lambda parts: parts[0].start, default=()
    )
    fault = min(broken, key=lambda error: error.start, default=None)
    if fault and (not first or fault.start <= first[0].start):
        raise fault
    mentioned = next((parts for parts in found if parts), ())
    if not first and not mentioned:
        raise ParseError(
            DropReason.UNPARSED,
            "the reply has neither <revision> ... </revision> nor {corrected_student_solution}",
        )
    return first or mentioned


def _in_their_tags(text: str, answer: str, seen: str) -> Sequence[Section]:
    """The published identifiers as tags, where any of them is closed."""
    if not _SOLUTION_ENDED.search(seen):
        return []
    return tagged(text, SOLUTION, answer=answer, seen=seen)


def _under_their_headings(text: str, answer: str, seen: str) -> Sequence[Section]:
    """The published identifiers, which have no end of their own."""
    found = headed(text, SOLUTION, [REASONING], answer=answer, seen=seen)
    if not found:
        return []
    heading = text[found[-1].start :].lstrip('*_`"#> \t-\\')
    reasons = headed(text[: found[-1].start], REASONING)
    if reasons and headed(text[found[-1].end :], REASONING):
        raise SectionError("the reply gives its reasoning twice", found[-1].start)
    closed = _SOLUTION_ENDED.search(text, found[-1].start)
    # in angle brackets they are tags, unless the one before has no end either
    if not closed and (_ENDED.search(text) or (heading[:1] == "<" and not reasons)):
        raise SectionError("the revised answer is not closed", found[-1].start)
    return [_unless_in_fence(text, part, answer) for part in found]


def _under_our_headings(text: str, answer: str, seen: str) -> Sequence[Section]:
    """`{reasoning}` and `{revision}`, or without braces where the reply begins with the first."""
    of_reply = partial(headed, text, answer=answer, seen=seen, brackets="{")
    found = of_reply("revision", ["reasoning"], bare=False)
    if not found:
        reasons = headed(text, "reasoning", brackets="{")
        if not reasons or text[: reasons[0].start].strip():
            return []
        found = of_reply(r"revision|revised[ ]answer")
    if len(found) > 1:
        raise SectionError("the reply has the heading of the revision twice", found[0].start)
    return [_unless_in_fence(text, part, answer) for part in found]


def _unless_in_fence(text: str, part: Section, answer: str) -> Section:
    """A part that nothing closes, where the reply does not break off inside a code fence."""
    breaks_off = has_open_fence(part.text) and not has_open_fence(answer)
    if part.end == len(text) and (breaks_off or has_open_fence(text[: part.start])):
        raise SectionError("the reply ends inside a code fence", part.start)
    return part


def _chosen(found: Sequence[Section]) -> Section:
    written = [section for section in found if section.text.strip()]
    if not written:
        raise ParseError(DropReason.EMPTY, "the revised answer has no text")
    own = [section for section in written if section.text.strip() not in _PLACEHOLDERS]
    if not own:
        raise ParseError(DropReason.UNPARSED, "the reply only repeats the instructions")
    return own[-1]


def _text_of(revised: Section, rationale: str, answer: str) -> str:
    """The revised answer without the frame that the reply put around it and the answer lacks."""
    text = revised.text
    for tag in _OUR_TAG.findall(text):
        if tag.lower() not in answer.lower():
            raise SectionError(f"the revised answer holds {tag}, a tag of the form", revised.start)
    if revised.escaped:
        text = from_escaped_tags(text, answer)
    else:
        refuse_doubtful_escapes([text], answer)
    refuse_spelled_breaks(text, answer)
    framed = whole_fence(text)  # of a model that fences every part
    if framed is not None and whole_fence(rationale) is not None and whole_fence(answer) is None:
        text = framed
    echo = _ECHOED_TAG.match(text)
    if echo and "<answer>" not in answer.lower():
        text = echo["text"]
    if "[assistant]" not in answer.lower():
        text = _ECHOED_ROLE.sub("", text)
    return trimmed(text, _keeps_indentation(text, revised.start, answer))


def _keeps_indentation(text: str, start: int, answer: str) -> bool:
    """Whether the blanks before a revised answer are its own, not those of the form around it.

    Raises:
        SectionError: that cannot be told.
    """
    blanks, lines = indentation(text), text.strip().split("\n")
    known = answer[:1].isspace() or f"{blanks}{lines[0]}".rstrip() in answer.split("\n")
    if known or (blanks != "\t" and len(blanks) < 2):
        return known
    if len(lines) > 1 and all(line.startswith(blanks) for line in lines[1:] if line.strip()):
        raise SectionError("every line of the revised answer is indented, unlike the answer", start)
    return len(lines) > 1 and (blanks == "\t" or len(blanks) >= 4)  # a block of code in Markdown


def _edits(text: str, answer: str) -> tuple[tuple[Edit, ...], str]:
    """The edits of a reply, and what stands before them."""
    value = value_of_json(text, "edits")
    if value is not NO_JSON and value is not None:
        return edit_list.edits_of_json(value, answer), text
    part, before = last_list(
        text, "edits", answer, is_empty=edit_list.is_empty_list, loose=edit_list.loose_edits
    )
    return edit_list.read_edits(unescaped(part.text) if part.escaped else part.text, answer), before


def _segments(text: str, answer: str) -> tuple[tuple[SegmentChange, ...], str]:
    """The changed segments of a reply, and what stands before them."""
    value = value_of_json(text, "segments", SEGMENTS)
    if value is not NO_JSON and value is not None:
        return segment_list.segments_of_json(value, answer), text
    part, before = last_list(
        segment_list.with_end(text),
        "segments",
        answer,
        is_empty=segment_list.is_empty_list,
        loose=segment_list.loose_segments,
        form=SEGMENTS,
    )
    block = from_escaped_tags(part.text, answer) if part.escaped else part.text
    return segment_list.read_segments(block, answer), before
