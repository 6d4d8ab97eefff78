"""Which prompts belong to which part of a run that several machines share."""

import re
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class PromptShard:
    """One of several parts of the prompts; the parts are disjoint, and together all prompts.

    A prompt's id alone decides, so every machine draws the same parts, whatever the order of the
    data, and two equal prompts are in one part, where one is dropped as the other's duplicate.
    """

    number: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `i/n`.

        Raises:
            ValueError: it is something else.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"expected i/n, from 1/n to n/n, such as 3/8; got {text!r}")
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        """For folders and files: `3-of-8`."""
        return f"{self.number}-of-{self.count}"

    def holds(self, prompt_id: str) -> bool:
        """Whether a prompt belongs to this part."""
        return shard_number(int(prompt_id, 16), self.count) == self.number


def shard_number(prompt_id: int, count: int) -> int:
    """The part, from 1, that a prompt with this id belongs to."""
    return prompt_id % count + 1
