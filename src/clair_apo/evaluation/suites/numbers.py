r"""Reads the number that a worked solution ends with.

It stands behind the last `####` or in the last `\boxed{}`; without either it is the last number of
the text. Separators of thousands, currency and percent signs are no part of it.
"""

import re
from fractions import Fraction

_MARK = "####"
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = re.compile(
    # a minus between two terms is no sign: 10-5 ends with 5
    rf"(?:(?<![\w)\]}}%.])(?P<sign>-))?\s?[$\u20ac\u00a3]?\s?"
    rf"(?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s?/\s?(?P<under>\d+)(?![\d.,]*\d)"
    rf"|(?:(?<![\w)\]}}%.])(?P<minus>-))?\s?[$\u20ac\u00a3]?\s?(?P<value>{_WHOLE}(?:\.\d+)?|\.\d+)"
)
_MOST_DIGITS = 100
"""Of a number that is read; a model that repeats a digit to its limit has found none."""


def read_number(text: str) -> Fraction | None:
    r"""The number that a solution ends with; None where it has none.

    Args:
        text: the solution, such as `... = 18\n#### 18` or `so it is $1,800.00`.
    """
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\,", "").replace("\\$", "$")
    text = _LATEX_FRACTION.sub(r"\1/\2", text)
    marked = text.rpartition(_MARK)[2] if _MARK in text else None
    if marked is not None and (found := _numbers(marked)):
        return found[0]
    boxed = _BOXED.findall(text)
    found = _numbers(boxed[-1] if boxed else text)
    return found[-1] if found else None


def _numbers(text: str) -> list[Fraction | None]:
    return [_value(match) for match in _NUMBER.finditer(text)]


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > _MOST_DIGITS:
        return None
    if match["value"]:
        size = Fraction(match["value"].replace(",", ""))
    elif not int(match["under"]):
        return None
    else:
        size = Fraction(int(match["over"]), int(match["under"])) + int(match["whole"] or 0)
    return -size if match["sign"] or match["minus"] else size
