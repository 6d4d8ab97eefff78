"""Keywords that neither side of a pair may hold, read from a text file.

One entry stands on each line: words, which are found as whole words whatever their case and the
white space between them, or after `regex:` a regular expression of the package `regex`, which is
taken as it is. Empty lines and lines that begin with `#` are none.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import regex

from clair_apo.config import read_text
from clair_apo.errors import ConfigError, DataError
from clair_apo.records import digest
from clair_apo.text.checks import SECONDS
from clair_apo.text.words import UNPARTED

_EXPRESSION = "regex:"
_IN_A_WORD = re.compile(rf"[^\W{UNPARTED}]")


class Keyword(NamedTuple):
    """One entry of a file of keywords."""

    text: str
    """As the file spells it."""
    pattern: "regex.Pattern[str]"


class Keywords:
    """The entries of a file of keywords.

    Args:
        path: a UTF-8 text file.

    Raises:
        ConfigError: it cannot be read, has no entry, or one that is no regular expression.

    Attributes:
        digest: of the entries, in their order; 16 hex digits.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = tuple(_entries(path))
        if not self._entries:
            raise ConfigError(f"{path}: holds no keyword; write one on each line")
        self.digest = digest([entry.text for entry in self._entries])[:16]

    def find(self, text: str) -> str | None:
        """The first entry of the file that a text holds; None where it holds none.

        Raises:
            DataError: a regular expression does not come to an end.
        """
        for entry in self._entries:
            try:
                if entry.pattern.search(text, timeout=SECONDS):
                    return entry.text
            except TimeoutError:
                raise DataError(
                    f"{self._path}: {entry.text!r} did not come to an end within {SECONDS:g} s on "
                    f"a text of {len(text)} characters; write an expression that does not try so "
                    "many ways, such as without a repeated group in a repeated group"
                ) from None
        return None


def _entries(path: Path) -> Iterator[Keyword]:
    for number, line in enumerate(read_text(path).lstrip("\ufeff").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            yield Keyword(text, regex.compile(_pattern(text)))
        except regex.error as error:
            raise ConfigError(f"{path}:{number}: no regular expression ({error})") from None


def _pattern(text: str) -> str:
    if text.startswith(_EXPRESSION):
        return text.removeprefix(_EXPRESSION).strip()
    # Chinese and Japanese words have no edge that a word could end at
    before = r"(?<!\w)" if _IN_A_WORD.match(text[0]) else ""
    after = r"(?!\w)" if _IN_A_WORD.match(text[-1]) else ""
    return "(?i)" + before + r"\s+".join(map(regex.escape, text.split())) + after
