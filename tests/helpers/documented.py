"""Command lines as documents show them: in code blocks, between backticks, in headers of YAML."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

_BEGINS = r"(?:clair-apo|accelerate launch|python (?:scripts|benchmarks)/\w+\.py)"
_IN_A_BLOCK = re.compile(rf"(?m)^[ #]*(?:Command:|several processes:)?\s*({_BEGINS}(?:\\\n|.)*)$")
_IN_BACKTICKS = re.compile(rf"`({_BEGINS}[^`\n]*)`")
_PLACEHOLDERS = {"NAME": "smollm2-135m", "FORMAT": "edits", "N": "2", "URL": "http://127.0.0.1/v1"}


def command_lines(text: str) -> Iterator[list[str]]:
    """The commands in a document, each in its words, without comments and placeholders."""
    for shown in (*_IN_BACKTICKS.findall(text), *_IN_A_BLOCK.findall(text)):
        line = re.sub(r"\\\n[ #]*", " ", shown)
        if "..." in line or "`" in line:  # a piece of one, or prose that begins with its name
            continue
        line = re.split(r"\s{2,}[(#]|\s# |\s{3,}(?=\w)", line)[0].rstrip("\\ .,:")
        yield [_PLACEHOLDERS.get(word, word) for word in shlex.split(line)]


def commands_in(paths: list[Path]) -> list[tuple[str, ...]]:
    """All that differ, of several documents."""
    found = (tuple(words) for path in paths for words in command_lines(path.read_text("utf-8")))
    return sorted(set(found))
