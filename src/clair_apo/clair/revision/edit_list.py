"""Reads the list of edits in a reply: elements, elements with attributes, or JSON."""

import json
import re
from collections.abc import Iterable
from typing import Any

from clair_apo.clair.revision.edits import Edit, stands_in
from clair_apo.clair.revision.escapes import edits_as_meant
from clair_apo.clair.revision.reply_text import whole_fence

# (?!<...) before a dot: where an end is missing, a search goes no further than the next beginning
_ATTRIBUTES = r"(?:\s[^<>]*)?"
_CDATA = re.compile(r"(?s)\A\s*<!\[CDATA\[(.*)\]\]>\s*\Z")
_DATA = r"\s*<!\[CDATA\[.*?\]\]>\s*"
# a passage ends at its own tag's end and at no other: it may itself be HTML or JSX.
# <edit> is only a frame; where it is missing there is no doubt about what belongs together
_EDIT = re.compile(
    rf"""(?isx) (?P<begun><\s*edit{_ATTRIBUTES}>\s*)?
    <\s*find{_ATTRIBUTES}> (?P<find>{_DATA} | (?:(?!<\s*/?\s*find\s*>).)*+) </\s*find\s*> \s*
    (?: <\s*replace\s*/> | <\s*replace{_ATTRIBUTES}>
      (?P<replace>{_DATA} | (?:(?!<\s*/?\s*replace\s*>).)*+) </\s*replace\s*> )
    (?P<ended>\s*</\s*edit\s*>)?"""
)
# for an answer that is about such tags: a passage ends where the next part of the list follows
_EDIT_AROUND_TAGS = re.compile(
    r"""(?isx) (?P<begun><\s*edit\s*>\s*)?
    <\s*find\s*> (?P<find>(?:(?!</\s*find\s*>\s*<\s*replace\b).)*+) </\s*find\s*> \s*
    (?: <\s*replace\s*/> (?=\s*(?:</\s*edit\s*>|<\s*edit\s*>|<\s*find\s*>|\Z))
      | <\s*replace\s*>
      (?P<replace>(?:(?!</\s*replace\s*>\s*(?:</\s*edit\s*>|<\s*edit\s*>|<\s*find\s*>|\Z)).)*+)
      </\s*replace\s*> )
    (?P<ended>\s*</\s*edit\s*>)?"""
)
_WITH_ATTRIBUTES = re.compile(
    r"""(?isx) <\s*edit
    \s+ find\s*=\s*(?P<q>["'])(?P<find>(?:(?!<\s*edit\s).)*?)(?P=q)
    \s+ replace\s*=\s*(?P<r>["'])(?P<replace>(?:(?!<\s*edit\s).)*?)(?P=r)
    \s* (?: /> | >\s*</\s*edit\s*> )"""
)
_FORM_TAG = re.compile(r"(?i)<\s*/?\s*(?:edits?|find|replace)\b[^<>]*>")
_OPENING = re.compile(r"(?i)<\s*(?:edit|find|replace)\b")
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
    """The content of `<edits>` is not a list of edits."""


def is_empty_list(block: str) -> bool:
    """Whether the content of `<edits>` says that nothing has to change."""
    bare = _BETWEEN.sub("", block).strip()
    return not bare or bare == "[]" or bool(_NONE.fullmatch(bare))


def read_edits(block: str, answer: str) -> tuple[Edit, ...]:
    """Read the content of `<edits>`: the edits in their order, one that is repeated only once.

    Args:
        block: the content.
        answer: the text that is to be edited. Tags of the form are part of a passage only where
            the answer holds them, and it tells whether the reply is escaped.

    Raises:
        EditListError: quotes what is not an edit, or is not closed.
        EscapeError: it is in doubt whether the edits are escaped.
    """
    if is_empty_list(block):
        return ()
    if _BETWEEN.sub("", block).strip()[0] in "[{":
        return _from_json(whole_fence(block) or block.strip(), answer)
    attributes = _WITH_ATTRIBUTES.search(block) and not _EDIT.search(block)
    if attributes:
        _refuse_rest(_WITH_ATTRIBUTES.sub("", block))
        found = (Edit(m["find"], m["replace"]) for m in _WITH_ATTRIBUTES.finditer(block))
        return edits_as_meant(_unique(found), answer, by_rule=True)
    edits, is_data = _from_elements(block, answer)
    return edits if is_data else edits_as_meant(edits, answer, by_rule=False)


def _from_elements(block: str, answer: str) -> tuple[tuple[Edit, ...], bool]:
    """The edits, and whether any of them is in CDATA: then nothing in the list is escaped."""
    # as text where the answer holds such marks itself
    unframed = _content if "<![CDATA[" in answer else _data_or_content
    form = _EDIT
    if _FORM_TAG.search(answer) and _rest(_EDIT.sub("", block)):
        form = _EDIT_AROUND_TAGS
    found = list(form.finditer(block))
    _refuse_rest(form.sub("", block))
    edits = [Edit(unframed(m["find"]), unframed(m["replace"] or "")) for m in found]
    is_data = unframed is _data_or_content and any(
        _CDATA.match(m[name] or "") for m in found for name in ("find", "replace")
    )
    if form is _EDIT_AROUND_TAGS and not all(stands_in(answer, edit.find) for edit in edits):
        raise EditListError("tags of the form stand in the edits, and not as in the answer")
    for match, edit in zip(found, edits, strict=True):
        if bool(match["begun"]) != bool(match["ended"]):
            raise EditListError(f"an edit is not closed: {match[0][:80]!r}")
        if _is_framed(match["find"]) and not _is_framed(match["replace"] or ""):
            _refuse_doubtful_frame(match["find"], answer)
        for tag in _FORM_TAG.findall(edit.replace) if not is_data else ():
            if tag.lower() not in answer.lower():
                raise EditListError(f"a replacement holds {tag!r}, a tag of the form")
    return _unique(edits), is_data


def loose_edits(text: str) -> tuple[int, int] | None:
    """Where the first edit of a reply that names no `<edits>` begins, and where the last ends.

    Raises:
        EditListError: another one begins behind them, and is not whole.
    """
    found = list(_EDIT.finditer(text))
    if not found:
        return None
    end = found[-1].end()
    if _OPENING.search(text, end):
        raise EditListError(f"an edit is not closed: {text[end:].strip()[:80]!r}")
    return found[0].start(), end


def edits_of_json(value: Any, answer: str) -> tuple[Edit, ...]:
    """Edits from decoded JSON: a list of objects with the texts `find` and `replace`.

    Raises:
        EditListError: quotes what is not an edit.
        EscapeError: it is in doubt whether the edits are escaped.
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
    edits = _unique(Edit(find=row["find"], replace=row["replace"]) for row in rows)
    return edits_as_meant(edits, answer, by_rule=False)


def _from_json(text: str, answer: str) -> tuple[Edit, ...]:
    try:
        value = json.loads(text, strict=False)  # models break lines inside strings
    except (ValueError, RecursionError):
        raise EditListError(f"not an edit: {text[:80]!r}") from None
    return edits_of_json(value, answer)


def _rest(block: str) -> str:
    return _BETWEEN.sub("", block).strip()


def _refuse_rest(block: str) -> None:
    rest = _rest(block)
    if rest:
        raise EditListError(f"not an edit: {rest[:80]!r}")


def _data_or_content(passage: str) -> str:
    data = _CDATA.match(passage)
    return _content(data[1] if data else passage)


def _content(passage: str) -> str:
    """Without the line breaks that frame a passage: one after its tag and one before its end."""
    if passage == "\n":
        return ""
    return passage[1:-1] if _is_framed(passage) else passage


def _refuse_doubtful_frame(passage: str, answer: str) -> None:
    """Refuse line breaks around a passage where nothing tells whether they are part of it."""
    if passage in answer:
        raise EditListError(
            "it cannot be told whether the line breaks around a passage are part of it: "
            f"{passage[:80]!r}; begin a passage, and what replaces it, right behind the tag"
        )


def _is_framed(passage: str) -> bool:
    return passage.startswith("\n") and passage.endswith("\n")


def _unique(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    # models that loop repeat an edit word by word; twice the same is meant once
    return tuple(dict.fromkeys(edits))
