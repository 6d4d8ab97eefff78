"""The name of a figure of an evaluation in a config: `<suite>.<figure>`, with a sign."""

from typing import NamedTuple, Self


class FigureName(NamedTuple):
    """A figure, and whether more of it is better."""

    suite: str
    figure: str
    sign: int
    """1 where higher is better, -1 where lower is."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<suite>.<figure>`, with a minus sign before it where lower is better.

        Raises:
            ValueError: it is something else.
        """
        suite, _, figure = text.removeprefix("-").partition(".")
        if not suite or not figure:
            raise ValueError(f"expected <suite>.<figure>, got {text!r}")
        return cls(suite, figure, -1 if text.startswith("-") else 1)

    @property
    def name(self) -> str:
        """Without the sign."""
        return f"{self.suite}.{self.figure}"
