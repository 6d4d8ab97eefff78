"""Thinking that a model wrote before its reply, in the spellings of a dozen model families."""

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


def after_thinking(text: str) -> str:
    """The text behind the thinking it begins with; empty where that never closes."""
    for opening, closing in THINKING:
        begun = opening.match(text)
        if begun:
            ended = closing.search(text, begun.end())
            return text[ended.end() :] if ended else ""
    return text
