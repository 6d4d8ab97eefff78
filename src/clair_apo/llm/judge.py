"""A model as a judge: asks which of two answers is better, and whether a preference holds.

Judges favour the answer that they are shown first, so callers ask every comparison in both orders
and count it where both agree; a tie and no consistent preference are results of their own.
"""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from clair_apo.config import read_text
from clair_apo.errors import ConfigError
from clair_apo.llm.client import CachedChat
from clair_apo.llm.thinking import after_thinking
from clair_apo.llm.types import Answer, ChatRequest
from clair_apo.records import Conversation, Message, digest

SANDBOX = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, trim_blocks=True, keep_trailing_newline=False
)
"""Renders templates: prompts, answers and rubrics are values in them, never part of them."""

_VERDICT = re.compile(r"(?is)<verdict>\W*(?:answer[\s_]*)?(1|2|tie|yes|no)\W*</verdict>")

_SCORE = re.compile(r"(?is)<score>\s*(-?\d+(?:\.\d+)?)\s*(?:/\s*(\d+)\s*)?</score>")

Scale = tuple[int, int]
"""The lowest and the highest number that a judge may give."""
Verdict = Literal["first", "second", "tie"]
_OF_COMPARISON: dict[str, Verdict] = {"1": "first", "2": "second", "tie": "tie"}


@dataclass(frozen=True)
class Judge:
    """A model that compares answers to the same conversation.

    Attributes:
        chat: the model.
        rubric: the preference in plain words; empty asks for the better answer in general.
    """

    chat: CachedChat
    rubric: str = ""

    def compare(self, conversation: Conversation, first: str, second: str) -> ChatRequest:
        """The question which of two answers is better; `read_comparison` reads the reply."""
        return self._request(_template("compare"), conversation, first, second)

    def confirm(self, conversation: Conversation, better: str, worse: str) -> ChatRequest:
        """The question whether `better` is better than `worse`; `read_confirmation` reads it."""
        return self._request(_template("confirm"), conversation, better, worse)

    def score(self, conversation: Conversation, answer: str, scale: Scale) -> ChatRequest:
        """The question for a number from the lower to the upper end of a scale; `read_score`."""
        return self._ask(
            _template("score"),
            conversation=[message.model_dump() for message in conversation],
            answer=answer,
            rubric=self.rubric,
            lowest=scale[0],
            highest=scale[1],
        )

    @cached_property
    def digest(self) -> str:
        """Changes with every change of what the judge is asked; 16 hex digits."""
        sources = [_source(name) for name in ("compare", "confirm")]
        return digest([*sources, self.rubric])[:16]

    @cached_property
    def score_digest(self) -> str:
        """The same of what `score` asks."""
        return digest([_source("score"), self.rubric])[:16]

    def _request(
        self, template: Template, conversation: Conversation, first: str, second: str
    ) -> ChatRequest:
        return self._ask(
            template,
            conversation=[message.model_dump() for message in conversation],
            first=first,
            second=second,
            rubric=self.rubric,
        )

    def _ask(self, template: Template, **values: Any) -> ChatRequest:
        text = template.render(**values)
        return self.chat.request((Message(role="user", content=text.strip()),))


def load_rubric(path: Path | None) -> str:
    """Read the preference in plain words from a text file; empty where there is none.

    Raises:
        ConfigError: the file cannot be read, or has no text.
    """
    if path is None:
        return ""
    rubric = read_text(path).strip()
    if not rubric:
        raise ConfigError(f"{path}: the rubric has no text")
    return rubric


def read_comparison(answer: Answer) -> Verdict | None:
    """The verdict of a comparison; None where the reply holds none, or is not whole."""
    return _OF_COMPARISON.get(_last_verdict(answer))


def read_confirmation(answer: Answer) -> bool | None:
    """Whether the claim holds; None where the reply does not say, or is not whole."""
    return {"yes": True, "no": False}.get(_last_verdict(answer))


def read_score(answer: Answer, scale: Scale) -> float | None:
    """The number that a judge gave; None where the reply holds none on the scale, or two.

    A number out of another one than the upper end, such as 7/10 on a scale to 100, is none.
    """
    done = answer.completion
    if done is None or done.finish_reason != "stop" or done.refused:
        return None
    found = {
        (float(number), int(of or scale[1]))
        for number, of in _SCORE.findall(after_thinking(done.text))
    }
    if len(found) != 1:
        return None
    score, highest = found.pop()
    return score if highest == scale[1] and scale[0] <= score <= highest else None


def _last_verdict(answer: Answer) -> str:
    done = answer.completion
    if done is None or done.finish_reason != "stop" or done.refused:
        return ""
    found = _VERDICT.findall(after_thinking(done.text))
    return str(found[-1]).lower() if found else ""


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(f"templates/{name}.jinja").read_text("utf-8")


@cache
def _template(name: str) -> Template:
    return SANDBOX.from_string(_source(name))
