"""A reviser's reply without what stands around it: thinking, end marks, one code fence.

Nothing here knows what a revision is; `sections` finds it in what is left.
"""

import re

from clair_apo.llm.thinking import THINKING, after_thinking

_END_MARK = re.compile(
    r"(?i)(?:<\|(?:im_end|eot_id|end|return|endoftext|end_of_text|end_of_solution)\|>"
    r"|</s>|<end_of_turn>)\Z"
)
_LONGEST_END_MARK = len("<|end_of_solution|>")
_FENCE = re.compile(r"(?m)^[ \t]*(?:```+|~~~+)[\w+-]*[ \t]*$")
# what a reply in one of the known forms must have somewhere
_FORM = re.compile(
    r"""(?ix) <\s*/?\s*(?:reasoning|revision|edits?|find)\b | ["'](?:edits|revision)["']\s*:
    | teacher[\W_]{0,3}reasoning | corrected[\W_]{0,3}student"""
)
_PAIRED = ("reasoning", "revision", "edits", "find", "replace")


def reply_proper(text: str) -> str:
    """The reply itself, its lines ending in LF.

    Taken away are: thinking before it, in the spellings of a dozen model families, also where the
    chat template opened it and only its end is in the reply; end marks such as `<|im_end|>` that a
    server let through; and a code fence around the whole, with whatever follows it.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    text = _after_lone_end(after_thinking(_without_end_marks(text)))
    return _without_outer_fence(text)


def whole_fence(text: str) -> str | None:
    """What is in the one code fence that a text consists of; None where there is more or less."""
    fences = list(_FENCE.finditer(text.strip()))
    if len(fences) != 2:
        return None
    stripped = text.strip()
    first, last = fences
    if first.start() or last.end() != len(stripped):
        return None
    return stripped[first.end() : last.start()].strip("\n")


def _without_end_marks(text: str) -> str:
    # by positions: a model that loops may end with thousands of them
    end = len(text.rstrip())
    while mark := _END_MARK.search(text, max(0, end - _LONGEST_END_MARK), end):
        end = mark.start()
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end]


def _after_lone_end(text: str) -> str:
    """Drop thinking that the chat template opened: only its end stands in the reply."""
    for _, closing in THINKING:
        ends = list(closing.finditer(text))
        if not ends:
            continue
        before, after = text[: ends[-1].start()], text[ends[-1].end() :]
        # else it is a word of the answer: inside a tag, or followed by nothing of the form
        if _FORM.search(after) and all(_balanced(before, tag) for tag in _PAIRED):
            return after
    return text


def _balanced(text: str, tag: str) -> bool:
    opened = len(re.findall(rf"(?i)<{tag}\b[^<>]*>", text))
    return opened == len(re.findall(rf"(?i)</{tag}\s*>", text))


def _without_outer_fence(text: str) -> str:
    """Drop a fence that opens before anything of the form, and what follows its end."""
    fences = list(_FENCE.finditer(text))
    # an odd number of fences: the first and the last are not one pair
    if not fences or len(fences) % 2:
        return text
    before = text[: fences[0].start()]
    inside = text[fences[0].end() : fences[-1].start()]
    if _FORM.search(before) or not _FORM.search(inside):
        return text
    return f"{before}{inside.strip(chr(10))}"
