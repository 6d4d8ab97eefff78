"""The words in which a reviser is asked, once, to mend a reply."""

from clair_apo.clair.revision.parse import ParseError
from clair_apo.records import DropReason, RevisionFormat

REPAIRABLE = frozenset({DropReason.UNPARSED, DropReason.EDIT_NOT_FOUND})
"""The reasons that asking again can mend; a reply that declines or is cut is no such case."""

_FORM = {
    "full": "<reasoning>...</reasoning> and <revision>the whole revised answer</revision>",
    "edits": "<reasoning>...</reasoning> and <edits> with one <edit> for each change",
}
_COPIED = (
    " Copy every <find> from the answer character by character, long enough to stand there only "
    "once; edits must not overlap."
)


def repair_message(error: ParseError, format: RevisionFormat) -> str:
    """The user's turn that asks for the same revision in a form that can be used.

    It stands behind the first request and the reply itself, and refers to the answer there.

    Args:
        error: what was wrong; its reason is one of `REPAIRABLE`.
        format: how the reviser was asked to reply.

    Returns:
        All that was wrong, edit by edit, and what to do now.

    Raises:
        ValueError: asking again cannot mend such a reply.
    """
    if error.reason not in REPAIRABLE:
        raise ValueError(f"a reply that is {error.reason.value} is not asked for again")
    faults = "\n".join(f"- {fault}" for fault in error.faults)
    return (
        f"That reply cannot be used:\n{faults}\n\nPlease send the whole reply once more, with the "
        f"same revision, in exactly the form that was asked for: {_FORM[format]}."
        + (_COPIED if error.reason is DropReason.EDIT_NOT_FOUND else "")
    )
