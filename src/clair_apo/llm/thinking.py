"""Finds and removes the thinking before a reply, in the spellings of a dozen model families."""

import re

THINKING = tuple(
    (re.compile(rf"\s*{opening}", re.I), re.compile(closing, re.I))
    for opening, closing in (
        (r"<think(?:ing)?>", r"</think(?:ing)?>"),
        (r"<thoughts?>", r"</thoughts?>"),
        (r"<scratchpad>", r"</scratchpad>"),
        (r"<seed:think>", r"</seed:think>"),
        (r"\[think\]", r"\[/think\]"),
        (r"\u25c1think\u25b7", r"\u25c1/think\u25b7"),
        (r"<\|start_thinking\|>", r"<\|end_thinking\|>"),
        (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
        (r"<unused94>", r"<unused95>"),
        (r"<\|channel\|>analysis<\|message\|>", r"<\|channel\|>final<\|message\|>"),
    )
)
"""How it opens, at the beginning of a text, and how it closes."""
_FINAL_CHANNEL = re.compile(r"\s*<\|channel\|>final<\|message\|>", re.I)
_CODE_FENCE = re.compile(r"(?m)^[ \t]*(?:```|~~~)")


def after_thinking(text: str) -> str:
    """The text behind the thinking it begins with; empty where that never closes."""
    final = _FINAL_CHANNEL.match(text)
    if final:
        return text[final.end() :]
    for opening, closing in THINKING:
        begun = opening.match(text)
        if begun:
            ended = closing.search(text, begun.end())
            return text[ended.end() :] if ended else ""
    return text


def without_thinking(text: str) -> str:
    """An answer without the thinking before it; empty where nothing stands behind that.

    Besides what `after_thinking` takes, this is thinking that the chat template opened, so that
    only its end is in the text: the one end that there is, with nothing behind it on its line,
    outside of code. Tags anywhere else are words of the answer.
    """
    while (rest := after_thinking(text)) != text:
        text = rest
    for opening, closing in THINKING:
        ends = list(closing.finditer(text))
        # blanks before the opening are looked over once, not from every position
        if len(ends) != 1 or re.search(opening.pattern.removeprefix(r"\s*"), text, re.I):
            continue
        before, after = text[: ends[0].start()], text[ends[0].end() :]
        in_code = len(_CODE_FENCE.findall(before)) % 2 or before.endswith("`")
        if not after.partition("\n")[0].strip() and not in_code:
            return after
    return text


def speaks_of_thinking(text: str) -> bool:
    """Whether there are tags of thinking anywhere in a text."""
    return any(
        re.search(opening.pattern.removeprefix(r"\s*"), text, re.I) or closing.search(text)
        for opening, closing in THINKING
    )
