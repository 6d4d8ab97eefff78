"""Cleans a text before it becomes a side of a pair; answers and revisions in the same way.

Outer blank lines and trailing blanks are removed and, where `strip_thinking` is set, the thinking
that the text begins with and the end marks that a server let through. Nothing else is.
"""

import re

from clair_apo.llm.thinking import without_thinking

ANSWER_VERSION = 1
"""Goes up whenever the same answer may become another text; runs rebuild their rows then."""

_END_MARK = re.compile(
    r"(?i)(?:<\|(?:im_end|eot_id|end|return|endoftext|end_of_text|end_of_solution)\|>"
    r"|</s>|<end_of_turn>)\Z"
)
_LONGEST_END_MARK = len("<|end_of_solution|>")
_LEADING = re.compile(r"(?:[^\S\n]*\n)*(?P<blanks>[^\S\n]*)")
_ENDS_A_SENTENCE = ".!?\u2026\u3002\uff01\uff1f)]}>\"'\u201d*_`"


def with_line_feeds(text: str) -> str:
    """The text with every line ending in LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def trimmed(text: str, indented: bool | None = None) -> str:
    """The text without outer blank lines and trailing blanks.

    Args:
        text: an answer, or a revision of one.
        indented: whether the first line keeps its indentation, which in code means something; by
            default unless it is a single blank, which tokenizers leave before a text.
    """
    blanks = indentation(text)
    if indented is None:
        indented = blanks == "\t" or len(blanks) > 1
    return (blanks if indented else "") + text.strip() if text.strip() else ""


def indentation(text: str) -> str:
    """The blanks before a text's first word, on its own line."""
    leading = _LEADING.match(text)
    assert leading is not None  # it matches the empty text
    return leading["blanks"]


def answer_text(text: str, strip_thinking: bool) -> str:
    """Clean an answer so that it may become a side of a pair.

    Args:
        text: as the model, or the data, gave it.
        strip_thinking: whether thinking before it and end marks after it are no part of it.
    """
    text = with_line_feeds(text)
    if strip_thinking:
        text = without_thinking(without_end_marks(text))
    return trimmed(text)


def without_end_marks(text: str, answer: str | None = None) -> str:
    """The text without the end marks, such as `<|im_end|>`, that it ends with.

    A mark that the text itself speaks of stays: one that occurs earlier in it, or in the answer
    that it is a revision of, or that closes an HTML element. So does, where there is no such
    answer to tell, one that is the last word of an unfinished sentence.
    """
    # by positions: a model that loops may end with thousands of them
    first = end = len(text.rstrip())
    marks = set()
    while mark := _END_MARK.search(text, max(0, end - _LONGEST_END_MARK), end):
        first = end = mark.start()
        marks.add(mark[0].lower())
        while end and text[end - 1].isspace():
            end -= 1
    known = f"{text[:end]}\n{answer or ''}".lower()
    own = any(mark in known for mark in marks) or ("</s>" in marks and "<s>" in known)
    last = text[end - 1 : end]
    is_word = last == ":" or (text[end:first].strip("\n") and last not in _ENDS_A_SENTENCE)
    return text.rstrip() if own or (is_word and answer is None) else text[:end]
