"""Judging for MixEval: what a judge is asked, how its reply is read, and letters read by rule.

The protocol is MixEval's, the words are ours. Free-form: the judge sees the question without its
passage, every right answer, and the model's answer, and gives 0.0 to 1.0. Multiple choice: the
judge only finds out which option the answer names; it is not told the right one.
"""

import re
from string import ascii_uppercase
from typing import NamedTuple

from clair_apo.evaluation.suites.mixeval_items import FREE_FORM, Item
from clair_apo.records import Conversation, Message

NO_OPTION = "none"
"""What a judge says of an answer that names no option, or several."""

_NUMBER = r"\s*([0-9]*\.?[0-9]+)\s*"
_SCORES = (re.compile(rf"\[\[{_NUMBER}\]\]"), re.compile(rf"\[{_NUMBER}\]"))
_LETTERS = (
    re.compile(r"\[\[\s*([A-Z]|(?i:none))\s*\]\]"),
    re.compile(r"\[\s*([A-Z]|(?i:none))\s*\]"),
)

_GRADER = "You grade answers to questions with care and without favour."
_GRADING = """\
Grade an answer to a question. You are given the question, the reference answers and the answer. \
The question may refer to a passage that you are not shown. If there are several reference \
answers, each of them alone is fully right, and it is enough that the answer matches one. What \
counts is whether the answer says the same as a reference, not how it is worded.

First give your reason in one or two sentences. Then end with a score from 0.0 (wrong) to 1.0 \
(right) in steps of 0.1, in double square brackets, such as [[0.4]].

Example 1
Question: Which river runs through Vienna?
Reference answers: <answer 1> Danube; <answer 2> Donau
Answer: That is the Danube, the second longest river of Europe.
Grade: The answer names the Danube, which is the first reference. [[1.0]]

Example 2
Question: How many bottles are left on the shelf?
Reference answers: <answer 1> 14
Answer: There were 20 bottles and 8 were sold, so 12 are left.
Grade: The reference is 14, and the answer says 12. [[0.0]]

Example 3
Question: Which two gases make up most of the air?
Reference answers: <answer 1> nitrogen and oxygen
Answer: Mostly nitrogen, and carbon dioxide.
Grade: One of the two gases is right, the other is not. [[0.5]]

Now grade this one.
"""
_READER = "You find out which option an answer to a multiple-choice question names."
_READING = f"""\
Find out which option an answer to a multiple-choice question names. Do not solve the question \
and do not judge whether the answer is right: only say what it names.

First give your reason in one sentence. Then end with the letter of the option in double square \
brackets, such as [[B]]; where the answer names no option, or several, with [[{NO_OPTION}]].

Example 1
Question: Where would you look for a clean plate?
A. garage
B. cupboard
C. car
Answer: B
Reading: The answer gives the letter B. [[B]]

Example 2
Question: What is ice made of?
A. water
B. sand
Answer: Ice is frozen water.
Reading: The answer says water, which is option A. [[A]]

Example 3
Question: Which of these is a prime number?
A. 4
B. 6
C. 7
Answer: It can be either of them, depending on how you count.
Reading: The answer settles on no option. [[{NO_OPTION}]]

Now read this one.
"""


def judge_question(item: Item, answer: str) -> Conversation:
    """What a judge is asked about an answer."""
    if item.problem_type == FREE_FORM:
        references = "; ".join(f"<answer {n}> {text}" for n, text in enumerate(item.target, 1))
        parts = (
            f"Question: {item.prompt}",
            f"Reference answers: {references}",
            f"Answer: {answer}",
        )
        return _turns(_GRADER, "\n".join([_GRADING, *parts, "Grade:"]))
    parts = (f"Question: {item.prompt}", item.lettered, f"Answer: {answer}")
    return _turns(_READER, "\n".join([_READING, *parts, "Reading:"]))


def read_score(reply: str) -> float | None:
    """The first score in double brackets, else in single ones; None where none is in 0 to 1."""
    found = _first(_SCORES, reply)
    score = None if found is None else float(found)
    return score if score is not None and score <= 1 else None


def read_letter(reply: str) -> str | None:
    """The first letter in double brackets, else in single ones; None where there is none.

    Returns:
        A capital letter, also one outside the options, or `NO_OPTION`.
    """
    found = _first(_LETTERS, reply)
    return found if found is None or len(found) == 1 else NO_OPTION


def _first(patterns: tuple[re.Pattern[str], ...], reply: str) -> str | None:
    found = next((m for pattern in patterns if (m := pattern.search(reply))), None)
    return None if found is None else found[1]


def _turns(system: str, user: str) -> Conversation:
    return (Message(role="system", content=system), Message(role="user", content=user))


def letter_by_rule(item: Item, answer: str) -> str | None:
    r"""The option that an answer names, read without a judge; None where it names none.

    In this order: a letter at the beginning (`B`, `**B.** ...`, `(B) ...`), the last letter after
    words such as "the answer is" or in `\boxed{}`, the first letter that stands out (in bold, in
    parentheses, alone on a line, before a full stop, after "option"), the text of exactly one
    option.
    """
    letters = f"([{ascii_uppercase[: len(item.options)]}])"
    for rule in _RULES:
        if found := re.findall(rule.pattern.replace("LETTER", letters), answer):
            return str(found[-1 if rule.last else 0])
    return _option_named(item, answer)


class _Rule(NamedTuple):
    """Where a letter stands; `last` takes the last such place, for conclusions."""

    pattern: str
    last: bool = False


_OPEN, _CLOSE = r"[*_`\"'(\[]*", r"(?:[*_`\"')\]]|[.:,;]?(?:\s|$))"
_RULES = (
    # at the beginning it is alone, or set off from what follows: an article is not
    _Rule(rf"^\s*{_OPEN}LETTER(?:\s*$|\s*\n|[.:,;)*_`\]])"),
    _Rule(rf"(?i:answer)(?i:\s+(?:is|would be|should be))?[:\s]*{_OPEN}LETTER{_CLOSE}", last=True),
    _Rule(r"\\boxed\{\s*(?:\\text\{)?\s*LETTER\b", last=True),
    _Rule(r"(?:\*\*|__)\s*\(?LETTER(?:[.:)]|\s*(?:\*\*|__))"),
    _Rule(r"\(LETTER\)"),
    _Rule(r"(?m)^\s*LETTER\s*[.:)]?\s*$"),
    _Rule(r"(?<![\w'])LETTER[.:)](?:\s|$)"),
    _Rule(rf"(?i:option|choice)\s+{_OPEN}LETTER{_CLOSE}"),
)
_OWN_LETTER = re.compile(r"^\s*\([A-Z]\)\s*")
"""Options of AGIEval bring a letter of their own."""


def _option_named(item: Item, answer: str) -> str | None:
    said = _plain(answer)
    texts = [_plain(_OWN_LETTER.sub("", option)) for option in item.options]
    found = [n for n, text in enumerate(texts) if text and f" {text} " in f" {said} "]
    # "red" within "dark red" is not named by itself
    longest = [n for n in found if not any(_within(texts[n], texts[m]) for m in found if m != n)]
    return ascii_uppercase[longest[0]] if len(longest) == 1 else None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def _within(text: str, other: str) -> bool:
    return len(text) < len(other) and f" {text} " in f" {other} "
