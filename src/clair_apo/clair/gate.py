"""Which answers and revisions make no pair, and why.

What no pair can be made of is always refused: texts that are cut, empty or equal. What is a matter
of taste has a threshold in `GateConfig`, and two presets: `paper` and `strict`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from rapidfuzz.distance import Levenshtein

from clair_apo.clair.language import language_of
from clair_apo.clair.truncation import TrainingTokens
from clair_apo.clair.wording import is_refusal, mention_of_revision
from clair_apo.config import Section
from clair_apo.errors import ConfigError
from clair_apo.records import Conversation, DropReason, FinishReason

GATE_VERSION = 2
"""Goes up whenever the same rows may be judged differently; runs rebuild their pairs then."""

PRESETS: dict[str, dict[str, Any]] = {
    # the published recipe keeps whatever could be read and differs
    "paper": {
        "max_edit_ratio": None,
        "length_ratio": None,
        "max_length": None,
        "language_confidence": None,
        "drop_refusals": False,
        "drop_mentions": False,
    },
    # 97 of 100 answers that two models gave independently to one prompt differ by more than 0.6
    # (n = 406): what is beyond it is not a revision
    "strict": {
        "max_edit_ratio": 0.6,
        "length_ratio": (0.5, 2.0),
        "max_length": 1024,
        "language_confidence": 0.95,
        "drop_refusals": True,
        "drop_mentions": True,
    },
}
"""What `GateConfig.preset` sets."""


def _ascending(ratio: tuple[float, float]) -> tuple[float, float]:
    low, high = ratio
    if not 0 <= low < high:
        raise ValueError(f"expected two ratios, the lower one first, not {low:g} and {high:g}")
    return ratio


class GateConfig(Section):
    """What a revision must keep to; null switches a threshold off."""

    preset: Literal["paper", "strict"] | None = None
    """Sets every threshold that is not set beside it: `paper` drops what is equal and nothing
    else, as the published recipe; `strict` drops what is no minimal revision. The resolved config
    holds the values and no preset."""
    max_edit_ratio: float | None = Field(None, gt=0, le=1)
    """Character Levenshtein distance of answer and revision over the length of the longer one,
    at most (0 to 1; over_edited)."""
    length_ratio: Annotated[tuple[float, float], AfterValidator(_ascending)] | None = None
    """Characters of the revision over those of the answer: lowest and highest (length_ratio)."""
    max_length: int | None = Field(None, gt=0)
    """Tokens of prompt and answer that the trainer keeps, as its `max_length`: sides that are equal
    within it, or empty, are dropped (identical_after_truncation)."""
    tokenizer: str | None = None
    """The tokenizer of the model to be trained, with its chat template: a folder, a hub name or
    `smollm2-135m`; by default the target's, where that is a local model. Used with `max_length`."""
    language_confidence: float | None = Field(None, gt=0.5, lt=1)
    """How sure the language of both sides must be before a difference counts (probability;
    language_changed)."""
    drop_refusals: bool = True
    """Drop a revision that declines where the answer does not (refused)."""
    drop_mentions: bool = True
    """Drop a revision that speaks of being one where the answer does not (mentions_revision)."""

    @model_validator(mode="before")
    @classmethod
    def _filled_by_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        if preset not in PRESETS:
            return values
        if PRESETS[preset].keys() <= values.keys():
            raise ValueError(
                f"preset {preset!r} changes nothing: every threshold is set beside it; take out "
                "those that the preset is to set"
            )
        return PRESETS[preset] | values | {"preset": None}

    @model_validator(mode="after")
    def _tokenizer_is_used(self) -> Self:
        if self.tokenizer is not None and self.max_length is None:
            raise ValueError(f"tokenizer {self.tokenizer!r} is used only with max_length; set both")
        return self


@dataclass(frozen=True)
class Verdict:
    """Why something makes no pair.

    Attributes:
        reason: from the closed list.
        detail: one sentence for a person, with the figures that decided.
    """

    reason: DropReason
    detail: str


def judge_answer(
    text: str, finish_reason: FinishReason, tokens: int, max_tokens: int
) -> Verdict | None:
    """Why an answer of the target model cannot be a side of a pair; None where it can.

    Args:
        text: the answer.
        finish_reason: as the server said; `given` where the data brought the answer.
        tokens: length of the answer; some servers say `stop` although the limit was reached.
        max_tokens: the limit.
    """
    if not text.strip():
        return Verdict(DropReason.EMPTY, "the answer has no text")
    # its end is the choice of a filter or of the limit, not the model's
    if finish_reason == "content_filter":
        return Verdict(DropReason.CUT, "a content filter broke the answer off")
    if finish_reason == "length" or tokens >= max_tokens:
        return Verdict(DropReason.CUT, f"the answer ran into the limit of {max_tokens} tokens")
    return None


def judge_reply(
    text: str, finish_reason: FinishReason, tokens: int, max_tokens: int
) -> Verdict | None:
    """Why a reviser's reply need not be parsed; None where it is to be.

    Args:
        text: the raw reply.
        finish_reason: as the server said.
        tokens: length of the reply; some servers say `stop` although the limit was reached.
        max_tokens: the limit.
    """
    if finish_reason == "content_filter":
        return Verdict(DropReason.REFUSED, "the server's content filter withheld the reply")
    if finish_reason == "length" or tokens >= max_tokens:
        return Verdict(DropReason.CUT, f"the reply ran into the limit of {max_tokens} tokens")
    if not text.strip():
        return Verdict(DropReason.EMPTY, "the reply has no text")
    return None


class Gate:
    """Judges pairs by a config; the tokenizer is loaded when first needed.

    Args:
        config: the thresholds.
        tokenizer: used where the config names none; give the target's name if it is local.

    Raises:
        ConfigError: `max_length` without any tokenizer.
    """

    def __init__(self, config: GateConfig, tokenizer: str | None = None) -> None:
        self.config = config
        name = config.tokenizer or tokenizer
        if config.max_length is not None and name is None:
            raise ConfigError(
                "gate.max_length needs the training tokenizer: set gate.tokenizer, or "
                "gate.max_length to null"
            )
        self._tokens = (
            TrainingTokens(name, config.max_length) if name and config.max_length else None
        )

    def judge_revision(self, prompt: Conversation, answer: str, revision: str) -> Verdict | None:
        """Why an answer and its revision make no pair; None where they do.

        Args:
            prompt: what the answer replies to.
            answer: the text that was revised.
            revision: what the reviser made of it, better or (direction `worsen`) worse.

        Raises:
            ConfigError: the tokenizer cannot be loaded or cannot render the conversation.
            ModelNotFoundError: its name leads nowhere.
        """
        checks = (
            self._revision_by_words(prompt, answer, revision),
            self._pair_by_measure(answer, revision, "the revision", "the answer"),
            self._edited_too_much(answer, revision),
            self._cut_alike(prompt, answer, revision),
        )
        return _first(_same(answer, revision, "the revision equals the answer"), *checks)

    def judge_pair(self, prompt: Conversation, chosen: str, rejected: str) -> Verdict | None:
        """Why two answers that neither is a revision of the other make no pair.

        Judged is what concerns any pair: equality, before and after truncation, languages and
        lengths; not how much was edited, and not what a revision must not say.

        Args:
            prompt: what both reply to.
            chosen: the winner's text.
            rejected: the loser's text.

        Raises:
            ConfigError: the tokenizer cannot be loaded or cannot render the conversation.
            ModelNotFoundError: its name leads nowhere.
        """
        checks = (
            self._pair_by_measure(rejected, chosen, "the chosen answer", "the rejected one"),
            self._cut_alike(prompt, rejected, chosen),
        )
        return _first(_same(rejected, chosen, "the two answers are equal"), *checks)

    # Each check yields a verdict or nothing, so that a later one costs nothing after a verdict.

    def _revision_by_words(
        self, prompt: Conversation, answer: str, revision: str
    ) -> Iterator[Verdict]:
        if self.config.drop_refusals and is_refusal(revision) and not is_refusal(answer):
            yield Verdict(DropReason.REFUSED, "the revision declines where the answer does not")
        if self.config.drop_mentions:
            asked = prompt[-1].content if prompt else ""
            words = mention_of_revision(revision, asked)
            if words and not mention_of_revision(answer, asked):
                yield Verdict(
                    DropReason.MENTIONS_REVISION, f"the revision speaks of being one: {words!r}"
                )

    def _pair_by_measure(self, old: str, new: str, this: str, that: str) -> Iterator[Verdict]:
        if self.config.language_confidence is not None:
            now = language_of(new, self.config.language_confidence)
            before = language_of(old, self.config.language_confidence) if now else None
            if now and before and now != before:
                yield Verdict(
                    DropReason.LANGUAGE_CHANGED,
                    f"{this} is in the language {now!r}, {that} in {before!r}",
                )
        if self.config.length_ratio is not None:
            low, high = self.config.length_ratio
            ratio = len(new) / max(len(old), 1)
            if not low <= ratio <= high:
                yield Verdict(
                    DropReason.LENGTH_RATIO,
                    f"{this} is {ratio:.2f} times as long as {that} (allowed: {low:g} to {high:g})",
                )

    def _edited_too_much(self, answer: str, revision: str) -> Iterator[Verdict]:
        if self.config.max_edit_ratio is not None:
            share = Levenshtein.distance(answer, revision) / max(len(answer), len(revision), 1)
            if share > self.config.max_edit_ratio:
                yield Verdict(
                    DropReason.OVER_EDITED,
                    f"{share:.2f} of the characters were edited "
                    f"(allowed: {self.config.max_edit_ratio:g})",
                )

    def _cut_alike(self, prompt: Conversation, old: str, new: str) -> Iterator[Verdict]:
        if self._tokens is not None:
            sides = self._tokens.left_of(prompt, new, old)
            if not any(sides):
                yield Verdict(
                    DropReason.IDENTICAL_AFTER_TRUNCATION,
                    f"the prompt alone fills the {self._tokens.max_length} tokens of max_length",
                )
            elif sides[0] == sides[1]:
                yield Verdict(
                    DropReason.IDENTICAL_AFTER_TRUNCATION,
                    f"both sides are the same {len(sides[0])} tokens within max_length "
                    f"{self._tokens.max_length}",
                )


def _same(old: str, new: str, equal: str) -> Iterator[Verdict]:
    if not new.strip() or not old.strip():
        yield Verdict(DropReason.EMPTY, "one side has no text")
    elif new.strip() == old.strip():
        yield Verdict(DropReason.NO_OP, equal)


def _first(*checks: Iterator[Verdict]) -> Verdict | None:
    return next((verdict for check in checks for verdict in check), None)
