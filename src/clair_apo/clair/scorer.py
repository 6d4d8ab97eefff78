"""Gives answers scores: by a reward model, by a judge with a scale, or by checks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from clair_apo.config import Section, UserPath
from clair_apo.llm import Answer, CachedChat, ChatRequest, Dialogue, ModelSpec, RewardSpec
from clair_apo.llm.judge import Judge, Scale, read_score
from clair_apo.records import Conversation, Message
from clair_apo.text.checks import Check, checks_digest, load_checks, passed

CHECKS = "checks"
"""Stands for the scorer's identity where checks are the scorer."""


class ScorerConfig(Section):
    """What gives answers scores: one of `reward`, `judge` and `checks`.

    In a recipe that chooses among answers the highest score is chosen and the lowest rejected; in
    every recipe both sides of a pair bear their scores.
    """

    reward: RewardSpec | None = None
    """A reward model: a sequence classifier with one label, in this process or behind vLLM."""
    judge: ModelSpec | None = None
    """A chat model that is asked for a number on `scale`, with the rubric."""
    scale: Scale = (1, 10)
    """Used with `judge`: the worst and the best number."""
    checks: UserPath | None = None
    """A file of checks (`clair_apo.text.checks`): the score is the share that an answer passes."""
    gap: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Reject the answer whose score is nearest to so much below the best one's; by default the
    worst. For the recipes that choose among answers."""

    @model_validator(mode="after")
    def _is_one_of_three(self) -> Self:
        named = [name for name in ("reward", "judge", "checks") if getattr(self, name) is not None]
        if len(named) != 1:
            found = " and ".join(named) or "none"
            raise ValueError(f"set one of reward, judge and checks; there is {found}")
        if not self.scale[0] < self.scale[1]:
            raise ValueError("scale: expected the worst number and then a higher one")
        return self

    @property
    def role(self) -> str | None:
        """The place in the config of the model that is asked; None for checks."""
        if self.checks is not None:
            return None
        return "scorer.reward" if self.reward else "scorer.judge"

    @property
    def spec(self) -> ModelSpec | None:
        """The model that is asked."""
        return self.reward or self.judge


class Score(NamedTuple):
    """The score of one answer."""

    value: float | None
    """None where there is none."""
    fault: str = ""
    """Why there is none."""
    answer: Answer | None = None
    """What was asked for it."""


@dataclass(frozen=True)
class Scorer:
    """A scorer of a run.

    Attributes:
        config: says which kind.
        checks: where checks are the scorer.
        rubric: the preference in plain words, for a judge.
        chat: the model, once it is open.
    """

    config: ScorerConfig
    checks: tuple[Check, ...] = ()
    rubric: str = ""
    chat: CachedChat | None = None

    @classmethod
    def of(cls, config: ScorerConfig | None, rubric: str) -> Self | None:
        """The scorer of a config.

        Raises:
            ConfigError: the file of checks cannot be read.
        """
        if config is None:
            return None
        return cls(config, load_checks(config.checks) if config.checks else (), rubric)

    @property
    def identity(self) -> str:
        """What stands in rows for who scored."""
        return self.chat.identity if self.chat else CHECKS

    @property
    def settings(self) -> Any:
        """What decides its scores and what is made of them, for the manifest."""
        if self.config.checks is not None and self.config.gap is None:
            return checks_digest(self.config.checks)
        found: dict[str, Any] = {"gap": self.config.gap}
        if self.config.checks is not None:
            return found | {"checks": checks_digest(self.config.checks)}
        assert self.chat is not None
        found |= {"model": self.chat.identity, **self.chat.spec.sampling.in_key()}
        if self.config.judge:
            found |= {"template": self._judge.score_digest, "scale": list(self.config.scale)}
        return found

    def scores(self, conversation: Conversation, texts: Sequence[str]) -> Dialogue[list[Score]]:
        """Score answers to a conversation, in their order."""
        if self.checks:
            asked = conversation[-1].content if conversation else ""
            return [
                Score(sum(passed(self.checks, asked, text).values()) / len(self.checks))
                for text in texts
            ]
        answers = yield tuple(self.question(conversation, text) for text in texts)
        return [self._read(answer) for answer in answers]

    def question(self, conversation: Conversation, text: str) -> ChatRequest:
        """The request for the score of one answer."""
        assert self.chat is not None
        if self.config.judge:
            return self._judge.score(conversation, text, self.config.scale)
        return self.chat.request((*conversation, Message(role="assistant", content=text)))

    def _read(self, answer: Answer) -> Score:
        if answer.completion is None:
            return Score(None, answer.failure, answer)
        if self.config.judge:
            low, high = self.config.scale
            value = read_score(answer, self.config.scale)
            fault = "" if value is not None else f"the reply holds no number from {low} to {high}"
            return Score(value, fault, answer)
        value = _number(answer.completion.text)
        fault = "" if value is not None else f"{self.identity} gives no finite number"
        return Score(value, fault, answer)

    @cached_property
    def _judge(self) -> Judge:
        assert self.chat is not None
        return Judge(self.chat, self.rubric)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
