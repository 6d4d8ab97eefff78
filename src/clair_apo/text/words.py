"""The words of a text as texts are compared: no case, no punctuation, no ligatures."""

import re
import unicodedata

# Chinese and Japanese do not part words: there a character is a word
UNPARTED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""The characters of scripts that do not part words, for a class of a regular expression."""
_WORD = re.compile(rf"[{UNPARTED}]|[^\W{UNPARTED}]+")


def words_of(text: str) -> list[str]:
    """The words of a text as they are compared: no case, no punctuation, no ligatures."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
