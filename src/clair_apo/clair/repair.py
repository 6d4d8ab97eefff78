"""The one more try that a reviser gets: what to tell it about a reply that cannot be used."""

from clair_apo.clair.parse import ParseError
from clair_apo.records import DropReason

REPAIRABLE = frozenset({DropReason.UNPARSED, DropReason.EDIT_NOT_FOUND})
"""The reasons that asking again can mend; a reply that declines or is cut is no such case."""

_AGAIN = {
    DropReason.UNPARSED: (
        "Reply once more, in exactly the form that you were asked for, with nothing before or "
        "after it."
    ),
    DropReason.EDIT_NOT_FOUND: (
        "Write the whole list of edits once more, in the same form. Copy every <find> from the "
        "answer character by character, long enough to stand there only once; edits must not "
        "overlap."
    ),
}


def repair_message(error: ParseError) -> str:
    """The user's turn that follows a reply which could not be read or applied.

    It belongs behind the first request and the reply itself: it refers to the form and to the
    answer that stand there.

    Args:
        error: what was wrong; its reason is one of `REPAIRABLE`.

    Returns:
        What was wrong, edit by edit where it is edits, and what to do now.

    Raises:
        ValueError: the reason is not repairable.
    """
    if error.reason not in REPAIRABLE:
        raise ValueError(f"a reply that is {error.reason.value} is not asked for again")
    faults = "\n".join(f"- {fault}" for fault in error.faults)
    return f"Your reply cannot be used:\n{faults}\n\n{_AGAIN[error.reason]}"
