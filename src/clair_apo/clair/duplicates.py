"""Which prompts stood in the data before: the same text, or the same but for how it is typed."""

import hashlib
import unicodedata

from clair_apo.records import Dropped, DropReason, Prompt, Stage


class SeenPrompts:
    """The prompts so far, as two 64-bit digests for each.

    Two prompts are near-duplicates where case, runs of blanks and the full stop or question mark
    at the end are all that tells them apart. All other punctuation counts: `3+4` is not `3-4`.
    """

    def __init__(self) -> None:
        self._first: dict[int, int] = {}

    def judge(self, prompt: Prompt) -> Dropped | None:
        """Remember a new prompt; a dropped row that names the earlier one for another."""
        typed = [(message.role, _as_if_typed_alike(message.content)) for message in prompt.messages]
        digest = hashlib.sha256(repr(typed).encode()).digest()
        key, own = int.from_bytes(digest[:8]), int(prompt.id, 16)
        if key not in self._first:
            self._first[key] = own
            return None
        first = self._first[key]
        how = (
            "the same prompt stood there before"
            if first == own
            else f"prompt {first:016x} stood there before, and differs only in how it is typed"
        )
        return Dropped(
            id=prompt.id,
            stage=Stage.LOAD,
            reason=DropReason.DUPLICATE,
            detail=f"{prompt.source}: {how}",
            raw=prompt.messages[-1].content,
        )


def _as_if_typed_alike(text: str) -> str:
    # NFC, not NFKC: that would make an x squared an x2
    words = unicodedata.normalize("NFC", text).casefold().split()
    return " ".join(words).rstrip(".?\u2026 ")
