"""What is looked for in pairs: each rule with its severity, and the thresholds with their reasons.

A fault is an error from the first pair on: nothing can be learned from it, or something wrong. What
may be meant is a warning where it is more than a few pairs, and a note below that.
"""

from enum import StrEnum
from typing import NamedTuple

FEW = 0.01
"""The share of pairs from which on what may be meant is a warning. Ours: one pair in a hundred."""
NEAR_IDENTICAL = 0.02
"""The share of characters that nearly identical sides differ in at most, over the longer side.
Ours: a letter or a digit in a line."""
NEAR_DUPLICATE = 0.8
"""The Jaccard similarity of near-duplicate prompts, of their runs of three words. Ours: one word
of thirty may differ, or what is added is a quarter at most."""
SMALL_GAP, SMALL_RELATIVE_GAP = 0.3, 0.05
"""Cohen's d and relative gap of the lengths from which on a length gap is a warning. These and the
next two are those of `soup data lint`: d alone would call a word in texts of one length a gap."""
LARGE_GAP, LARGE_RELATIVE_GAP = 0.8, 0.1
"""The same for an error; 0.8 is what Cohen calls a large effect."""
MARKUP_GAP = 0.1
"""The difference of the shares of chosen and rejected sides with a kind of markup from which on it
is a warning. Ours: in one pair of ten it tells the sides apart."""
LANGUAGE_CONFIDENCE = 0.95
"""How sure the language of both sides must be, as in the gate's strict preset."""
THRESHOLDS = {
    "few": FEW,
    "near_identical": NEAR_IDENTICAL,
    "near_duplicate": NEAR_DUPLICATE,
    "small_gap": SMALL_GAP,
    "small_relative_gap": SMALL_RELATIVE_GAP,
    "large_gap": LARGE_GAP,
    "large_relative_gap": LARGE_RELATIVE_GAP,
    "markup_gap": MARKUP_GAP,
    "language_confidence": LANGUAGE_CONFIDENCE,
}
"""All of them, as a report holds them."""


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Training stops at such a row, or learns nothing or something wrong from it."""
    WARNING = "warning"
    """A model may learn something else than the preference."""
    NOTE = "note"
    """Worth knowing."""


class Rule(NamedTuple):
    """One thing that is looked for."""

    name: str
    what: str
    """What a pair that it finds is like, in words."""
    advice: str
    severity: Severity
    """Of a finding, unless figures decide it."""
    from_share: float = 0.0
    """The share of pairs from which on it has that severity; below it is a note."""


_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_ALL = (
    Rule(
        "unreadable",
        "the row is no preference pair, and training stops at it",
        "mend the row or remove it; the message says what is wrong",
        _ERROR,
    ),
    Rule(
        "empty_text",
        "the prompt or a side has no text, and training stops at it",
        "remove the row",
        _ERROR,
    ),
    Rule(
        "identical_sides",
        "chosen and rejected are the same text",
        "remove the pair: its loss is the same whatever the model learns",
        _ERROR,
    ),
    Rule(
        "near_identical_sides",
        f"at most {NEAR_IDENTICAL:.0%} of the characters differ",
        "see whether the difference is the preference; where it is, take an objective that anchors "
        "the chosen side, since DPO lowers both sides of such pairs",
        _WARNING,
        FEW,
    ),
    Rule(
        "swapped_pair",
        "the same two answers stand the other way round in another row",
        "keep one of the two, or none",
        _ERROR,
    ),
    Rule(
        "repeated_pair",
        "prompt and both answers stood in an earlier row",
        "remove it, or give the earlier row a weight",
        _WARNING,
        FEW,
    ),
    Rule(
        "repeated_prompt",
        "the prompt stood in an earlier row, with other answers",
        "split by prompt, and count prompts rather than pairs",
        _NOTE,
    ),
    Rule(
        "near_duplicate_prompt",
        f"an earlier prompt is nearly the same (Jaccard similarity of {NEAR_DUPLICATE:g} or more)",
        "keep one of them, or split so that they stay together",
        _WARNING,
        FEW,
    ),
    Rule(
        "prompt_in_other_data",
        "the prompt also stands in the data that it is compared with",
        "take the prompt out of one of them: a test of it would be a test of memory",
        _ERROR,
    ),
    Rule(
        "near_prompt_in_other_data",
        "a prompt that is nearly the same stands in the data that it is compared with",
        "look at them, and take the prompt out of one of the two",
        _WARNING,
    ),
    Rule(
        "template_refuses",
        "the tokenizer's chat template does not take the conversation, and training stops at it",
        "mend the turns or their roles, or train with another template",
        _ERROR,
    ),
    Rule(
        "identical_after_truncation",
        "both sides are the same tokens within the training length, or have none",
        "raise max_length, or remove the pair",
        _ERROR,
    ),
    Rule(
        "template_marks",
        "a text holds marks of a chat template, such as <|im_start|>",
        "take them out: the trainer adds its own, and a model learns to write these",
        _WARNING,
    ),
    Rule(
        "prompt_in_one_side",
        "one side repeats the whole prompt and the other does not",
        "cut the prompt out of the answer",
        _WARNING,
        FEW,
    ),
    Rule(
        "refusal_in_chosen",
        "the chosen side declines and the rejected one does not (English only)",
        "see whether that is meant, as in data about safety",
        _WARNING,
        FEW,
    ),
    Rule(
        "refusal_in_rejected",
        "the rejected side declines and the chosen one does not (English only)",
        "see whether that is meant: a model learns to comply",
        _WARNING,
        FEW,
    ),
    Rule(
        "language_gap",
        "the sides are surely in different languages",
        "remove the pair, unless the language is the preference",
        _WARNING,
        FEW,
    ),
    Rule(
        "length_gap",
        "the chosen side is longer",
        "balance the lengths, or measure with length control: a model learns the length first",
        _NOTE,
    ),
    *(
        Rule(
            f"markup_gap_{kind}",
            f"one side has {words} and the other has none",
            "see whether the format is the preference",
            _NOTE,
        )
        for kind, words in {
            "list": "a list",
            "heading": "a heading",
            "bold": "bold words",
            "code": "a fence of code",
            "emoji": "an emoji",
        }.items()
    ),
)
RULES = {rule.name: rule for rule in _ALL}
"""All rules by name, in the order of a report."""
