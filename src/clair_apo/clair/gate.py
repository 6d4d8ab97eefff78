"""Which answers and revisions make no pair, and why."""

import re

from clair_apo.records import DropReason, FinishReason

GATE_VERSION = 1
"""Goes up whenever the same rows may be judged differently; runs rebuild their pairs then."""

# what assistants say that they cannot do; people also write "I can't make it on Friday"
_VERBS = (
    "help|assist|aid|provide|comply|fulfil|fulfill|do|answer|create|write|generate|produce|give|"
    "discuss|engage|continue|support|revise|edit|rewrite|complete|participate|access|browse|"
    "respond|advise|perform"
)
_REFUSAL = re.compile(
    rf"""(?ix) ^\W*
    (?: (?: (?: i'm | i\ am ) \s+ (?: very\s+ | really\s+ )? sorry | sorry | i\ apologi[sz]e
          | unfortunately ) \W{{0,3}} )?
    [^.!?:\n]{{0,40}}? \b
    (?: as\s+an\s+ai (?: \s*, | \s+(?: language | model | assistant | chatbot | system | i\b ) )
      | i \s+ (?: can(?:no|')t | can\s+not | won't | will\s+not | am\s+(?:unable|not\s+able)\s+to )
        \s+ (?: \w+\s+ )? (?: {_VERBS} ) \b
    )"""
)


def is_refusal(text: str) -> bool:
    """Whether a text opens by declining: "I'm sorry, but I can't ..." and its kin."""
    return bool(_REFUSAL.match(text.replace("\u2019", "'")))


def judge_answer(
    text: str, finish_reason: FinishReason, tokens: int, max_tokens: int | None
) -> DropReason | None:
    """Why an answer of the target model cannot be the loser of a pair; None where it can.

    Args:
        text: the answer.
        finish_reason: as the server said; `given` where the data brought the answer.
        tokens: length of the answer; some servers say `stop` although the limit was reached.
        max_tokens: the limit; None where there was none.
    """
    if not text.strip():
        return DropReason.EMPTY
    at_the_limit = max_tokens is not None and tokens >= max_tokens
    if finish_reason in ("length", "content_filter") or at_the_limit:
        # its end is the choice of the limit or of a filter, not the model's
        return DropReason.CUT
    return None


def judge_reply(
    text: str, finish_reason: FinishReason, tokens: int, max_tokens: int
) -> DropReason | None:
    """Why a reviser's reply need not be parsed; None where it is to be.

    Args:
        text: the raw reply.
        finish_reason: as the server said.
        tokens: length of the reply; some servers say `stop` although the limit was reached.
        max_tokens: the limit.
    """
    if finish_reason == "content_filter":
        return DropReason.REFUSED
    if finish_reason == "length" or tokens >= max_tokens:
        return DropReason.CUT
    if not text.strip():
        return DropReason.EMPTY
    return None


def judge_revision(answer: str, revision: str) -> DropReason | None:
    """Why an answer and its revision make no pair; None where they do."""
    if not revision.strip():
        return DropReason.EMPTY
    if revision.strip() == answer.strip():
        return DropReason.NO_OP
    if is_refusal(revision) and not is_refusal(answer):
        return DropReason.REFUSED
    return None
