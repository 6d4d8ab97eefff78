"""Strips a reviser's reply: thinking, end marks, and one code fence around it.

Nothing here knows what a revision is; `sections` finds it in what is left.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from clair_apo.clair.answer_text import with_line_feeds, without_end_marks
from clair_apo.llm.thinking import THINKING, after_thinking

_FENCE = re.compile(r"(?m)^[ \t]*(?:```+|~~~+)[\w+-]*[ \t]*$")
_OPENING_FENCE = re.compile(r"\A\s*(?:```+|~~~+)[\w+-]*[ \t]*\n")
_CLOSING_FENCE = re.compile(r"\n[ \t]*(?:```+|~~~+)\s*\Z")
_HEADING = re.compile(r"(?im)^[\W_]{0,9}(?:reasoning|revision|revised[ ]answer)\b")
NO_JSON = object()
"""Stands for the value of a reply that is no JSON object."""


@dataclass(frozen=True)
class ReplyForm:
    """By what a reply in one of the formats is known.

    Attributes:
        parts: names of the tags around a reply's parts, the reasoning apart.
        paired: names of all tags that are opened and closed.
        somewhere: what such a reply must have somewhere.
        begins: how it begins where nothing stands before it.
        ends: the tags that end it.
        json: how it begins as one JSON object.
    """

    parts: tuple[str, ...]
    paired: tuple[str, ...]
    somewhere: re.Pattern[str]
    begins: re.Pattern[str]
    ends: re.Pattern[str]
    json: re.Pattern[str]


def _form(
    parts: tuple[str, ...], inner: tuple[str, ...], somewhere: str, begins: str, ends: str
) -> ReplyForm:
    keys = "|".join(parts)
    published = r"teacher[\W_]{0,3}reasoning|corrected[\W_]{0,3}student"
    return ReplyForm(
        parts=parts,
        paired=("reasoning", *parts, *inner),
        somewhere=re.compile(
            rf"""(?i)<\s*/?\s*(?:reasoning|{somewhere})\b|["'](?:{keys})["']\s*:|{published}"""
        ),
        begins=re.compile(rf"(?i)[\W_]{{0,9}}(?:reasoning|{begins}|{published})\b"),
        ends=re.compile(rf"(?i)<\s*/\s*(?:{ends})\s*>"),
        json=re.compile(rf"""\{{\s*["'](?:reasoning|{keys})["']\s*:"""),
    )


TEXTS = _form(
    ("revision", "edits"),
    ("find", "replace"),
    somewhere="revision|edits?|find",
    begins="revision|revised[ ]answer|edits",
    ends="revision|edits?",
)
"""The formats in which text is written or quoted: `full` and `edits`."""
SEGMENTS = _form(("segments",), ("segment",), "segments?", begins="segments?", ends="segments?")
"""The format `segments`."""


def strip_reply(text: str, answer: str, form: ReplyForm = TEXTS) -> str:
    """Remove the wrappers around the answer; lines end in LF.

    Taken away are: thinking before it, in the spellings of a dozen model families, also where the
    chat template opened it and only its end is in the reply; end marks such as `<|im_end|>` that a
    server let through, unless the answer speaks of them; and a code fence around the whole, with
    whatever follows it.

    Args:
        text: the reply.
        answer: the text that was revised.
        form: of the format that was asked for.
    """
    text = with_line_feeds(text).lstrip("\ufeff")
    text = after_thinking(without_end_marks(text, answer))
    if form.json.match(_unfenced(text)):
        return text
    return _without_outer_fence(_after_lone_end(text, form), answer, form)


def json_value(text: str, key: str, form: ReplyForm = TEXTS) -> Any:
    """What a reply that is one JSON object has under a key; None where it has nothing there.

    Returns:
        `NO_JSON` for a reply in another form.

    Raises:
        ValueError: the reply begins such an object and cannot be read, or breaks off in it.
    """
    bare = _unfenced(text)
    if not bare.startswith("{"):
        return NO_JSON
    try:
        value = json.loads(bare, strict=False)  # models break lines inside strings
    except (ValueError, RecursionError):
        if form.json.match(bare):
            raise ValueError("the reply is a JSON object that is not closed or not valid") from None
        return NO_JSON
    return value.get(key) if isinstance(value, dict) else NO_JSON


def whole_fence(text: str) -> str | None:
    """What is in the one code fence that a text consists of; None where there is more or less."""
    fences = list(_FENCE.finditer(text.strip()))
    if len(fences) != 2:
        return None
    stripped = text.strip()
    first, last = fences
    if first.start() or last.end() != len(stripped):
        return None
    return stripped[first.end() : last.start()].strip("\n")


def has_open_fence(text: str) -> bool:
    """Whether a text ends inside a code fence."""
    return len(_FENCE.findall(text)) % 2 == 1


def _unfenced(text: str) -> str:
    """A text without a fence before it and a fence behind it, either of which may be missing."""
    return _CLOSING_FENCE.sub("", _OPENING_FENCE.sub("", text.rstrip())).strip()


def _after_lone_end(text: str, form: ReplyForm) -> str:
    """Drop thinking that the chat template opened: the reply holds only its end."""
    if form.begins.match(text.lstrip()):
        return text
    for _, closing in THINKING:
        ends = list(closing.finditer(text))
        if not ends:
            continue
        before, after = text[: ends[-1].start()], text[ends[-1].end() :]
        # else it is a word of the answer: inside a tag, or followed by nothing of the form
        if form.somewhere.search(after) and all(_balanced(before, tag) for tag in form.paired):
            return after
    return text


def _balanced(text: str, tag: str) -> bool:
    opened = len(re.findall(rf"(?i)<{tag}\b[^<>]*>", text))
    return opened == len(re.findall(rf"(?i)</{tag}\s*>", text))


def _without_outer_fence(text: str, answer: str, form: ReplyForm) -> str:
    """Drop a fence that opens before anything of the form, and what follows its end."""
    fences = list(_FENCE.finditer(text))
    # an odd number beside those of the answer: the first and the last are not one pair
    if len(fences) < 2 or len(fences) % 2 != has_open_fence(answer):
        return text
    before, after = text[: fences[0].start()], text[fences[-1].end() :]
    # a fence that ends before the form begins, or within it, is not around it
    begins = form.somewhere.search(text, fences[0].end(), fences[1].start())
    begun = form.somewhere.search(before) or _HEADING.search(before)
    if not begins or begun or form.ends.search(after):
        return text
    return f"{before}{text[fences[0].end() : fences[-1].start()].strip(chr(10))}"
