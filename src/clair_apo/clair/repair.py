"""The words in which a reviser is asked, once, to mend a reply."""

from clair_apo.records import RevisionFormat

_FORM = {
    "full": "<reasoning>...</reasoning> and <revision>the whole revised answer</revision>",
    "edits": "<reasoning>...</reasoning> and <edits> with one <edit> for each change",
}


def repair_message(fault: str, format: RevisionFormat) -> str:
    """Ask for the same revision in a form that can be read.

    Args:
        fault: what was wrong with the reply, in a sentence.
        format: how the reviser was asked to reply.
    """
    return (
        f"That reply cannot be used: {fault}. Please send the whole reply once more, with the "
        f"same revision, in exactly the form that was asked for: {_FORM[format]}."
    )
