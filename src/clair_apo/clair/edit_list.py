"""The list of edits in a reply: elements, elements with attributes, or JSON."""

import html
import json
import re
from collections.abc import Iterable
from typing import Any

from clair_apo.clair.edits import Edit
from clair_apo.clair.reply import whole_fence

# (?!<...) before a dot: where an end is missing, a search goes no further than the next beginning
_ATTRIBUTES = r"(?:\s[^<>]*)?"
_CDATA = re.compile(r"(?s)\A\s*<!\[CDATA\[(.*)\]\]>\s*\Z")
_DATA = r"\s*<!\[CDATA\[.*?\]\]>\s*"
# a passage ends at its own tag's end and at no other: it may itself be HTML or JSX.
# <edit> is only a frame; where it is missing there is no doubt about what belongs together
_EDIT = re.compile(
    rf"""(?isx) (?:<\s*edit{_ATTRIBUTES}>\s*)?
    <\s*find{_ATTRIBUTES}> (?P<find>{_DATA} | (?:(?!<\s*/?\s*find\s*>).)*+) </\s*find\s*> \s*
    (?: <\s*replace\s*/> | <\s*replace{_ATTRIBUTES}>
      (?P<replace>{_DATA} | (?:(?!<\s*/?\s*replace\s*>).)*+) </\s*replace\s*> )
    (?:\s*</\s*edit\s*>)?"""
)
_WITH_ATTRIBUTES = re.compile(
    r"""(?isx) <\s*edit
    \s+ find\s*=\s*(?P<q>["'])(?P<find>(?:(?!<\s*edit\s).)*?)(?P=q)
    \s+ replace\s*=\s*(?P<r>["'])(?P<replace>(?:(?!<\s*edit\s).)*?)(?P=r)
    \s* (?: /> | >\s*</\s*edit\s*> )"""
)
# what models put between edits: comments, fences, list markers, labels such as "**Edit 2:**"
_BETWEEN = re.compile(
    r"""(?imsx) <!--(?:(?!<!--).)*?--> | ^[ \t]*(?:```+|~~~+)\w*[ \t]*$
    | ^[ \t]*(?:[-*+]|\d+[.)])[ \t]*(?=$)
    | ^[ \t>\#*_-]*+(?:edit|change)[ \t]*+\#?\d*+[ \t]*+[.:)]*+[*_]*+[ \t]*+$
    | ^[ \t]*[-,;][ \t]*$"""
)
_NONE = re.compile(
    r"""(?ix) \W* (?: none | nil | null | empty | n/a
    | (?:there\ are\ )? no \s+ (?:edits?|changes?) (?:\s+(?:are\s+)?(?:needed|required|necessary))?
    | nothing (?:\s+(?:has\s+)?to\s+(?:be\s+)?changed?)? ) \W*"""
)


class EditListError(ValueError):
    """What stands where the edits should is not a list of edits."""


def read_edits(block: str) -> tuple[Edit, ...]:
    """Read the content of `<edits>`: the edits in their order, one that is repeated only once.

    Raises:
        EditListError: quotes what is not an edit.
    """
    bare = _BETWEEN.sub("", block).strip()
    if not bare or _NONE.fullmatch(bare):
        return ()
    if bare[0] in "[{":
        return _from_json(whole_fence(block) or block.strip())
    edits = [
        Edit(find=_content(m["find"]), replace=_content(m["replace"] or ""))
        for m in _EDIT.finditer(block)
    ]
    rest = _EDIT.sub("", block)
    if not edits:
        edits = [
            Edit(find=html.unescape(m["find"]), replace=html.unescape(m["replace"]))
            for m in _WITH_ATTRIBUTES.finditer(block)
        ]
        rest = _WITH_ATTRIBUTES.sub("", block)
    rest = _BETWEEN.sub("", rest).strip()
    if rest:
        raise EditListError(f"not an edit: {rest[:80]!r}")
    return _unique(edits)


def loose_edits(text: str) -> str | None:
    """The stretch from the first to the last edit of a reply that names no `<edits>`."""
    found = list(_EDIT.finditer(text))
    return text[found[0].start() : found[-1].end()] if found else None


def edits_of_json(value: Any) -> tuple[Edit, ...]:
    """Edits from decoded JSON: a list of objects with the texts `find` and `replace`.

    Raises:
        EditListError: quotes what is not an edit.
    """
    rows = [value] if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise EditListError(f"not a list of edits: {str(value)[:80]!r}")
    for row in rows:
        texts = isinstance(row, dict) and all(
            isinstance(row.get(name), str) for name in ("find", "replace")
        )
        if not texts:
            raise EditListError(f"not an edit: {str(row)[:80]!r}")
    return _unique(Edit(find=row["find"], replace=row["replace"]) for row in rows)


def _from_json(text: str) -> tuple[Edit, ...]:
    try:
        value = json.loads(text, strict=False)  # models break lines inside strings
    except (ValueError, RecursionError):
        raise EditListError(f"not an edit: {text[:80]!r}") from None
    return edits_of_json(value)


def _content(passage: str) -> str:
    """Without CDATA marks, and the one line break after an opening and before a closing tag."""
    data = _CDATA.match(passage)
    return (data[1] if data else passage).removeprefix("\n").removesuffix("\n")


def _unique(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    # models that loop repeat an edit word by word; twice the same is meant once
    return tuple(dict.fromkeys(edits))
