"""Finds marks of format in a text: lists, headings, bold words, fences of code, emoji."""

import re
from collections.abc import Callable, Mapping

import regex

LIST_ITEM = re.compile(r"(?m)^[^\S\n]*(?:[-*+\u2022]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])\s+\S")
"""The beginning of a line that is the item of a list: a number, a letter or a bullet."""
_HEADING = re.compile(r"(?m)^ {0,3}#{1,6}[ \t]+\S")
_BOLD = re.compile(r"\*\*[^*\s](?:[^*\n]{0,200}[^*\s])?\*\*")  # in code, __ is no bold
_FENCE = re.compile(r"(?m)^[ \t]*(?:```|~~~)")
# digits, # and * have pictures too, and the signs of copyright and trade mark are no emoji in text
_EMOJI = regex.compile(r"[\p{Emoji_Presentation}]|\p{Extended_Pictographic}\ufe0f")

MARKUP: Mapping[str, Callable[[str], bool]] = {
    "list": lambda text: LIST_ITEM.search(text) is not None,
    "heading": lambda text: _HEADING.search(text) is not None,
    "bold": lambda text: _BOLD.search(text) is not None,
    "code": lambda text: _FENCE.search(text) is not None,
    "emoji": lambda text: not text.isascii() and _EMOJI.search(text) is not None,
}
"""Whether a text holds at least one mark of a kind."""
