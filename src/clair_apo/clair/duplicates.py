"""Which prompts stood in the data before: the same text, or the same but for how it is typed."""

import unicodedata

from clair_apo.records import Prompt, digest


class SeenPrompts:
    """The prompts so far, as two 64-bit digests for each.

    Two prompts are near-duplicates where case, runs of blanks and the full stop or question mark
    at the end are all that tells them apart. All other punctuation counts: `3+4` is not `3-4`.
    """

    def __init__(self) -> None:
        self._first: dict[int, int] = {}

    def earlier(self, prompt: Prompt) -> str | None:
        """Remember `prompt`; a clause that names the earlier one it repeats, None for a new one."""
        typed = [[message.role, _as_if_typed_alike(message.content)] for message in prompt.messages]
        key, own = int(digest(typed)[:16], 16), int(prompt.id, 16)
        if key not in self._first:
            self._first[key] = own
            return None
        first = self._first[key]
        if first == own:
            return "the same prompt stood there before"
        return f"prompt {first:016x} stood there before, and differs only in how it is typed"


def _as_if_typed_alike(text: str) -> str:
    # NFC, not NFKC: that would make an x squared an x2
    words = unicodedata.normalize("NFC", text).casefold().split()
    return " ".join(words).rstrip(".?\u2026 ")
