"""Puts new passages into a text by their positions; what lies between them is copied unchanged."""

from collections.abc import Sequence

from clair_apo.records import PlacedEdit


class EditError(ValueError):
    """Edits that cannot be applied: they name nothing that is there, or overlap.

    Attributes:
        faults: a sentence for each such edit; the message holds them all.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


def apply_placed(text: str, edits: Sequence[PlacedEdit]) -> str:
    """Apply edits that do not overlap, at once; their order does not matter.

    Args:
        text: the text that the positions count in.
        edits: what is replaced.
    """
    pieces, done = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        assert edit.start >= done
        pieces += [text[done : edit.start], edit.replace]
        done = edit.end
    return "".join([*pieces, text[done:]])
