"""Masks keys and passwords in texts, in every spelling that may come back from a server.

A server or a proxy may quote what it was sent. Texts are masked as a whole, before they are cut.
"""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST = 6
"""Characters of the shortest key that is masked: `EMPTY` and `none` stand for no key at all, and
are words that an answer may hold."""
_LIKE_A_WORD = 16
"""A shorter one is masked only where no letter or digit stands next to it."""
_DEEPEST = 200
"""Levels of a JSON value that are looked into; no answer has so many."""


class Mask:
    """Hides secrets.

    Args:
        secrets: keys and passwords; what is shorter than `SHORTEST` is none.
    """

    def __init__(self, secrets: Iterable[str | None]) -> None:
        known = [secret for secret in secrets if secret and len(secret) >= SHORTEST]
        spellings = sorted({s for secret in known for s in _spellings(secret)}, key=len)
        self._known = tuple(known)
        # the longest first: one may be the beginning of another
        found = "|".join(_pattern(spelling) for spelling in reversed(spellings))
        self._pattern = re.compile(found, re.I) if found else None

    def text(self, text: str) -> str:
        """The text without the secrets, also without the beginning of one at its end."""
        if self._pattern is None:
            return text
        masked = self._pattern.sub(MASK, text)
        for secret in self._known:  # a reply that was broken off
            for length in range(len(secret) - 1, SHORTEST + 1, -1):
                if masked.endswith(secret[:length]):
                    masked = masked[:-length] + MASK
                    break
        return masked

    def value(self, value: Any, depth: int = 0) -> Any:
        """A JSON value without them, names included.

        Raises:
            RecursionError: it is nested deeper than any answer.
        """
        if depth > _DEEPEST:
            raise RecursionError(f"nested deeper than {_DEEPEST} levels")
        if isinstance(value, str):
            return self._pattern.sub(MASK, value) if self._pattern else value
        if isinstance(value, list):
            return [self.value(one, depth + 1) for one in value]
        if isinstance(value, dict):
            return {self.value(k): self.value(one, depth + 1) for k, one in value.items()}
        return value


NO_SECRETS = Mask(())
"""Hides nothing; refuses what is nested deeper than any answer."""


def _spellings(secret: str) -> Iterator[str]:
    """As it is, in JSON, in Python, in HTML, in addresses, and in base64."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield html.escape(secret)
    yield quote(secret, safe="")
    yield quote_plus(secret)
    for offset in range(3):  # a name and a colon before it shift it by so many bytes
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * offset + secret.encode()).decode().rstrip("=")
            # the first and the last letter may hold bits of what stands beside it
            inner = encoded[(offset * 4 + 2) // 3 :]
            inner = inner[:-1] if (offset + len(secret.encode())) % 3 else inner
            if len(inner) >= _LIKE_A_WORD:
                yield inner


def _pattern(spelling: str) -> str:
    if len(spelling) >= _LIKE_A_WORD:
        return re.escape(spelling)
    return rf"(?<![A-Za-z0-9]){re.escape(spelling)}(?![A-Za-z0-9])"
