"""The house style as a program: minimal revisions that follow it, and answers that break it.

The rules are those of `house_style.yaml`; `keeps` reads them from there.
"""

import re
from itertools import accumulate
from pathlib import Path

from clair_apo.clair.revision.segments import SegmentChange, apply_segments, segments_of
from clair_apo.llm import ChatRequest
from clair_apo.text.checks import load_checks, passed
from clair_apo.text.repetition import sentences

RULES = load_checks(Path(__file__).parent / "house_style.yaml")
LAST_LINE = "Next step: try it once today."
MOST = 5
"""Sentences beside the last line."""

_MARK = re.compile(r"^\s*(?:[-*+•]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])\s+")
_FILLER = re.compile(
    r"(?i)\A\W*(?:sure|certainly|of course|absolutely|great|here (?:is|are)|here's|hello|hi|dear"
    r"|thank you|thanks|i'm|i am|i'd|i would|what a)\b"
)
_SPELLING = (
    (r"(?i)\b(col|fav|neighb|harb|flav|behavi)or", r"\1our"),
    (r"(?i)\b(\w{3,}i)z(e|ed|es|ing|ation)(?=\w*\b)", r"\1s\2"),
    (r"(?i)\bcenter", "centre"),
    (r"(?i)\bfiber", "fibre"),
    (r"(?i)\btraveler", "traveller"),
    (r"(?i)\bgray", "grey"),
    (r"(?i)\bjewelry", "jewellery"),
)
_TAGS = re.compile(r'<segment n="\d+">|</segment>')
_ANSWER = re.compile(r"(?s)<answer>\n(.*)\n</answer>")
_BOTH = re.compile(r"(?s)<answer_1>\n(.*)\n</answer_1>\s*<answer_2>\n(.*)\n</answer_2>")


def keeps(answer: str) -> float:
    """The share of rules that an answer keeps to."""
    held = passed(RULES, "", answer)
    return sum(held.values()) / len(held)


def changes(answer: str) -> list[SegmentChange]:
    """What has to change in an answer, segment by segment, and nothing else."""
    segments = segments_of(answer)
    texts = [_spelled(_MARK.sub("", one.text)) for one in segments]
    begin = next((n for n, text in enumerate(texts) if not _FILLER.match(text)), len(texts) - 1)
    texts[begin] = _without_filler(texts[begin])
    count = list(accumulate(len(sentences(text)) for text in texts[begin:]))
    kept = max(1, sum(so_far <= MOST for so_far in count))
    end = begin + kept
    texts = ["" if not begin <= n < end else text for n, text in enumerate(texts)]
    texts[end - 1] = f"{segments[end - 1].indentation}{texts[end - 1]}\n\n{LAST_LINE}"
    return [
        SegmentChange(number, number, text)
        for number, (one, text) in enumerate(zip(segments, texts, strict=True), 1)
        if text != one.text
    ]


def restyled(answer: str) -> str:
    """An answer in the house style."""
    return apply_segments(answer, changes(answer))


def _spelled(text: str) -> str:
    for pattern, british in _SPELLING:
        text = re.sub(pattern, british, text)
    return text


def _without_filler(text: str) -> str:
    """Cut a filler opening that is part of a sentence, up to its first comma or mark."""
    while _FILLER.match(text):
        rest = re.split(r"[,!:.]\s+", text, maxsplit=1)
        text = rest[1][:1].upper() + rest[1][1:] if len(rest) > 1 else f"In short: {text}"
    return text


def revise(request: ChatRequest) -> str:
    """The reviser of the data sets `clair` and `chain`: replies in the format `segments`."""
    found = _ANSWER.search(request.messages[-1].content)
    assert found is not None
    answer = _TAGS.sub("", found[1])
    parts = "\n".join(f'<segment n="{one.first}">{one.text}</segment>' for one in changes(answer))
    return f"<reasoning>\nthe house style\n</reasoning>\n<segments>\n{parts}\n</segments>"


def judge(request: ChatRequest) -> str:
    """The judge of `advise`: the answer that keeps to more rules is better."""
    found = _BOTH.search(request.messages[-1].content)
    assert found is not None
    first, second = keeps(found[1]), keeps(found[2])
    verdict = "tie" if first == second else "1" if first > second else "2"
    return f"By the rules {first:.2f} and {second:.2f}.\n<verdict>{verdict}</verdict>"


def weakened(answer: str) -> tuple[str, str]:
    """Two answers that break rules which the given one may keep to: a little, and further.

    Both begin with a filler; in the second, every sentence is the item of a list as well.
    """
    little = f"Sure, here is my answer. {answer.strip()}"
    items = "\n".join(f"- {sentence}" for sentence in sentences(answer))
    return little, f"Sure, here is my answer.\n{items}"
