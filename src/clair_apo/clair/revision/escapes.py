"""Decides whether a reviser escaped its reply as XML or HTML does: `&lt;` for `<`.

That is decided for a reply as a whole, by what the student's answer contains. Where a text can be
read both ways, it is read neither way.
"""

import html
import re
from collections.abc import Iterable, Sequence

from clair_apo.clair.revision.edits import Edit, stands_in

_ANY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,30});")
# what escaping a text can bring about, twice escaped first: other entities are the text's own
_BY_ESCAPING = re.compile(
    r"(?i)&amp;(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[\da-f]{1,6});"
    r"|&(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[\da-f]{1,6});"
)


class EscapeError(ValueError):
    """A text with escapes that may be meant as they are written, or decoded."""


def unescaped(text: str) -> str:
    """The text with every character reference that ends in `;` decoded, once."""
    return _ANY.sub(lambda reference: html.unescape(reference[0]), text)


def refuse_doubtful_escapes(texts: Sequence[str], answer: str) -> None:
    """Refuse new texts whose escapes may stand for the characters themselves.

    Escapes are meant as they stand where the answer holds the same ones, or where the texts also
    hold the character (or a `<`) as it is.

    Args:
        texts: all that the reply puts into the answer, and what it quotes from it.
        answer: the text that was revised.

    Raises:
        EscapeError: quotes the first one that is in doubt.
    """
    whole = "\n".join(texts)
    rest = _ANY.sub("", whole)
    for escape in dict.fromkeys(_escapes(whole)):
        if escape not in answer and not _is_written_raw(escape, rest):
            raise EscapeError(
                f"the reply writes {escape!r}, which the answer does not hold and which may stand "
                f"for {unescaped(escape)!r}: write every character as it is to stand in the text"
            )


def refuse_spelled_breaks(text: str, answer: str) -> None:
    """Refuse a text on one line that spells its line breaks, as JSON that is escaped twice does.

    Raises:
        EscapeError: it does, while the answer has line breaks and spells none.
    """
    spelled = r"\n"
    if spelled in text and spelled not in answer and "\n" in answer and "\n" not in text.strip():
        raise EscapeError(
            f"the reply writes {spelled} where the answer breaks lines: escape line breaks once in "
            "JSON, and not at all elsewhere"
        )


def from_escaped_tags(text: str, answer: str) -> str:
    """Decode a text between escaped tags, as in `&lt;revision&gt;`.

    Raises:
        EscapeError: it is in doubt whether it is escaped as well.
    """
    for escape in _escapes(text):
        if escape in answer or "<" in text:
            raise EscapeError(
                f"the reply escapes its own tags, and it is in doubt whether {escape!r} is meant "
                "as it stands: write tags, and every character of the text, as they are"
            )
    return unescaped(text)


def edits_as_meant(edits: Sequence[Edit], answer: str, *, by_rule: bool) -> tuple[Edit, ...]:
    """The edits with their escapes decoded, in all of them or in none.

    Decoded are those of a reply in which a passage stands in the answer only when it is decoded.

    Args:
        edits: as the reply has them.
        answer: what their passages were copied from.
        by_rule: whether they stand where XML has every text escaped, in attributes.

    Raises:
        EscapeError: it is in doubt whether they are escaped.
    """
    decoded = tuple(Edit(unescaped(edit.find), unescaped(edit.replace)) for edit in edits)
    if decoded == tuple(edits):
        return decoded
    replacements = "\n".join(edit.replace for edit in edits)
    if all(stands_in(answer, edit.find) for edit in edits):
        if by_rule and all(stands_in(answer, edit.find) for edit in decoded):
            return decoded
        texts = [text for edit in edits for text in (edit.find, edit.replace)]
        refuse_doubtful_escapes(texts, answer)
        return tuple(edits)
    if not all(stands_in(answer, edit.find) for edit in decoded):
        return tuple(edits)  # it names passages that are not there, however it is read
    rest = _ANY.sub("", replacements)
    for escape in dict.fromkeys(_escapes(replacements)):
        if _is_written_raw(escape, rest):
            raise EscapeError(
                f"the reply writes both {escape!r} and {unescaped(escape)!r}, and its passages are "
                "escaped: write every character as it is to stand in the text"
            )
    return decoded


def _escapes(text: str) -> Iterable[str]:
    return (match[0] for match in _BY_ESCAPING.finditer(text))


def _is_written_raw(escape: str, rest: str) -> bool:
    """Whether a text without its escapes holds the character that one stands for, or a `<`."""
    return "<" in rest or unescaped(escape)[:1] in rest
