"""Decides which answers and revisions make no pair, and says why.

Texts that are cut, empty or equal are always refused: no pair can be made of them. What is a matter
of taste has a threshold in `GateConfig`, and two presets: `paper` and `strict`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self
from unicodedata import normalize

from pydantic import AfterValidator, Field, model_validator

from clair_apo.alignment import edit_distance
from clair_apo.clair.filters.keywords import Keywords
from clair_apo.clair.filters.truncation import RowRefusedError, TrainingTokens
from clair_apo.config import Section, UserPath
from clair_apo.errors import ConfigError
from clair_apo.llm.thinking import without_thinking
from clair_apo.records import Conversation, DropReason, FinishReason, Message
from clair_apo.text.checks import checks_digest, load_checks, passed
from clair_apo.text.detectors import is_refusal, language_of, mention_of_revision

GATE_VERSION = 4
"""Goes up whenever the same rows may get another result; runs rebuild their pairs then."""

_LATER = ("length_difference", "max_characters")
"""Thresholds that came after run folders were written: unset they are no setting of a run."""

_NOT_WHOLE = "nothing says that the model came to the end of its answer"

PRESETS: dict[str, dict[str, Any]] = {
    # the published recipe keeps whatever could be read and differs
    "paper": {
        "max_edit_ratio": None,
        "length_ratio": None,
        "length_difference": None,
        "max_characters": None,
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
        "length_difference": None,
        "max_characters": None,
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
    """What a pair must keep to; null switches a threshold off."""

    preset: Literal["paper", "strict"] | None = None
    """Sets every threshold that is not set beside it: `paper` drops what is equal and nothing
    else, as the published recipe; `strict` drops what is no minimal revision. The resolved config
    holds the values and no preset."""
    max_edit_ratio: float | None = Field(None, gt=0, le=1)
    """Character Levenshtein distance of answer and revision over the length of the longer one,
    at most (0 to 1; over_edited)."""
    length_ratio: Annotated[tuple[float, float], AfterValidator(_ascending)] | None = None
    """Characters of chosen over those of rejected: lowest and highest (length_ratio)."""
    length_difference: int | None = Field(None, ge=0)
    """Characters that one side may have more than the other, at most (length_difference)."""
    max_characters: int | None = Field(None, gt=0)
    """Characters that either side may have, at most (too_long)."""
    max_length: int | None = Field(None, gt=0)
    """Tokens of prompt and answer that the trainer keeps, as its `max_length`: sides that are equal
    within it, or empty, are dropped (identical_after_truncation), and so is a conversation that
    the tokenizer's chat template does not take."""
    tokenizer: str | None = None
    """The tokenizer of the model to be trained, with its chat template: a folder, a hub name or
    `smollm2-135m`; by default the target's, where that is a local model. Used with `max_length`."""
    language_confidence: float | None = Field(None, gt=0.5, lt=1)
    """How sure the language of both sides must be before a difference counts (probability;
    language_changed)."""
    checks: UserPath | None = None
    """A file of checks (`clair_apo.text.checks`): the chosen side must pass all of them
    (checks_failed)."""
    keywords: UserPath | None = None
    """A text file with a word, or `regex:` and an expression, on each line: a pair of which a side
    holds one of them is dropped (keyword). For words of the chosen side alone, take `checks`."""
    drop_refusals: bool = True
    """Drop a revision that declines where the answer does not (refused)."""
    drop_mentions: bool = True
    """Drop a revision that speaks of being one where the answer does not (mentions_revision);
    known in English only, as refusals are."""

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
class DropCause:
    """Why something makes no pair.

    Attributes:
        reason: from the closed list.
        detail: one sentence for a person, with the figures that decided.
    """

    reason: DropReason
    detail: str


def check_answer(
    text: str, finish_reason: FinishReason, tokens: int, max_tokens: int | None
) -> DropCause | None:
    """Why an answer of the target model cannot be a side of a pair; None where it can.

    Args:
        text: the answer.
        finish_reason: as the server said; `given` where the data brought the answer.
        tokens: length of the answer; some servers say `stop` although the limit was reached.
        max_tokens: the limit; None where there was none.
    """
    # its end is the choice of the limit or of a filter, not the model's; a model that thinks may
    # run into the limit before it has said anything
    if finish_reason == "length" or (max_tokens is not None and tokens >= max_tokens):
        return DropCause(DropReason.CUT, f"the answer ran into the limit of {max_tokens} tokens")
    if not text.strip():
        return DropCause(DropReason.EMPTY, "the answer has no text")
    if finish_reason == "content_filter":
        return DropCause(DropReason.CUT, "a content filter broke the answer off")
    if finish_reason not in ("stop", "given"):
        return DropCause(DropReason.REQUEST_FAILED, _NOT_WHOLE)
    return None


def check_reply(
    text: str,
    finish_reason: FinishReason,
    tokens: int,
    max_tokens: int,
    *,
    refused: bool = False,
) -> DropCause | None:
    """Why a reviser's reply need not be parsed; None where it is to be.

    Args:
        text: the raw reply.
        finish_reason: as the server said.
        tokens: length of the reply; some servers say `stop` although the limit was reached.
        max_tokens: the limit.
        refused: the model declined, in the field that there is for it.
    """
    if refused:
        return DropCause(DropReason.REFUSED, "the reviser declined")
    if finish_reason == "content_filter":
        return DropCause(DropReason.REFUSED, "the server's content filter withheld the reply")
    if finish_reason == "length" or tokens >= max_tokens:
        return DropCause(DropReason.CUT, f"the reply ran into the limit of {max_tokens} tokens")
    if not text.strip():
        return DropCause(DropReason.EMPTY, "the reply has no text")
    if finish_reason != "stop":
        return DropCause(DropReason.REQUEST_FAILED, _NOT_WHOLE)
    return None


class Gate:
    """Checks revisions and pairs by a config; the tokenizer is loaded when first needed.

    Args:
        config: the thresholds.
        tokenizer: used where the config names none; give the target's name if it is local.
        revision: of that tokenizer, where it is a hub name.

    Raises:
        ConfigError: `max_length` without any tokenizer, or a file of `checks` or `keywords` that
            cannot be read.

    Attributes:
        settings: what decides about pairs, for the manifest: the thresholds, and of the files of
            checks and keywords a digest of what they say.
    """

    def __init__(
        self, config: GateConfig, tokenizer: str | None = None, revision: str | None = None
    ) -> None:
        self.config = config
        name = config.tokenizer or tokenizer
        if config.max_length is not None and name is None:
            raise ConfigError(
                "gate.max_length needs the training tokenizer: set gate.tokenizer, or "
                "gate.max_length to null"
            )
        self._checks = load_checks(config.checks) if config.checks else ()
        self._keywords = Keywords(config.keywords) if config.keywords else None
        unset = {name for name in _LATER if getattr(config, name) is None}
        self.settings = config.model_dump(mode="json", exclude={"checks", "keywords", *unset})
        if config.checks:
            self.settings["checks"] = checks_digest(config.checks)
        if self._keywords:
            self.settings["keywords"] = self._keywords.digest
        self._tokens = (
            TrainingTokens(
                name,
                config.max_length,
                None if config.tokenizer else revision,
                asked_by="gate.tokenizer",
            )
            if name and config.max_length
            else None
        )

    def check(self) -> None:
        """Find out whether the tokenizer can be used, before a model is paid for its answers.

        Raises:
            ConfigError: it cannot be loaded, or has no chat template that takes a question and an
                answer.
            ModelNotFoundError: its name leads nowhere.
        """
        if self._tokens is None:
            return
        try:
            self._tokens.after_truncation(
                (Message(role="user", content="prompt"),), _turn("chosen"), _turn("rejected")
            )
        except RowRefusedError as error:  # a question and its answer: then it takes no row at all
            raise ConfigError(f"gate.tokenizer: {error}") from None

    def check_revision(self, prompt: Conversation, answer: str, revision: str) -> DropCause | None:
        """Why a text is no usable revision of this answer; None where it is.

        Checked is what concerns the revision alone: what it says of itself, and how much of the
        answer it keeps. `check_pair` checks the two sides that come of it.

        Args:
            prompt: what the answer replies to.
            answer: the text that was revised.
            revision: what the reviser made of it, better or (direction `worsen`) worse.
        """
        if not revision.strip():
            return DropCause(DropReason.EMPTY, "the revision has no text")
        config = self.config
        if config.drop_refusals and is_refusal(revision) and not is_refusal(answer):
            return DropCause(DropReason.REFUSED, "the revision declines where the answer does not")
        asked = prompt[-1].content if prompt else ""
        words = mention_of_revision(revision, asked) if config.drop_mentions else None
        if words and not mention_of_revision(answer, asked):
            return DropCause(
                DropReason.MENTIONS_REVISION, f"the revision speaks of being one: {words!r}"
            )
        if config.max_edit_ratio is not None:
            share = edit_distance(answer, revision) / max(len(answer), len(revision))
            if share > config.max_edit_ratio:
                return DropCause(
                    DropReason.OVER_EDITED,
                    f"{share:.2f} of the characters were edited "
                    f"(allowed: {config.max_edit_ratio:g})",
                )
        return None

    def check_pair(self, prompt: Conversation, chosen: str, rejected: str) -> DropCause | None:
        """Why two answers make no pair, wherever they are from; None where they do.

        Checked is what concerns any pair: whether the sides are equal, in text and in the tokens
        that training leaves of them, their languages, lengths and keywords, and the checks of the
        chosen side.

        Args:
            prompt: what both reply to.
            chosen: the text of the better answer.
            rejected: the text of the other.

        Raises:
            ConfigError: the tokenizer cannot be loaded, or has no chat template.
            ModelNotFoundError: its name leads nowhere.
            DataError: a regular expression of a check or keyword does not come to an end.
        """
        if not chosen.strip() or not rejected.strip():
            return DropCause(DropReason.EMPTY, "one side has no text")
        if _canonical(chosen) == _canonical(rejected):
            return DropCause(DropReason.NO_OP, "both sides are equal")
        if _thinks(chosen) != _thinks(rejected):
            return DropCause(
                DropReason.THINKING_DIFFERS,
                "one side begins with thinking and the other does not (strip_thinking takes it "
                "from both)",
            )
        return (
            self._language_changed(chosen, rejected)
            or self._length_ratio(chosen, rejected)
            or self._length(chosen, rejected)
            or self._keyword(chosen, rejected)
            or self._checks_failed(prompt, chosen)
            or self._identical_after_truncation(prompt, chosen, rejected)
        )

    def _language_changed(self, chosen: str, rejected: str) -> DropCause | None:
        confidence = self.config.language_confidence
        if confidence is None:
            return None
        languages = language_of(chosen, confidence), language_of(rejected, confidence)
        if None in languages or languages[0] == languages[1]:
            return None
        return DropCause(
            DropReason.LANGUAGE_CHANGED,
            f"chosen is in the language {languages[0]!r}, rejected in {languages[1]!r}",
        )

    def _length_ratio(self, chosen: str, rejected: str) -> DropCause | None:
        if self.config.length_ratio is None:
            return None
        low, high = self.config.length_ratio
        ratio = len(chosen) / len(rejected)
        if low <= ratio <= high:
            return None
        return DropCause(
            DropReason.LENGTH_RATIO,
            f"chosen is {ratio:.2f} times as long as rejected (allowed: {low:g} to {high:g})",
        )

    def _length(self, chosen: str, rejected: str) -> DropCause | None:
        difference, most = self.config.length_difference, self.config.max_characters
        apart = abs(len(chosen) - len(rejected))
        if difference is not None and apart > difference:
            return DropCause(
                DropReason.LENGTH_DIFFERENCE,
                f"the sides differ by {apart:,} characters (allowed: {difference:,})",
            )
        for side, text in (("chosen", chosen), ("rejected", rejected)):
            if most is not None and len(text) > most:
                return DropCause(
                    DropReason.TOO_LONG, f"{side} has {len(text):,} characters (allowed: {most:,})"
                )
        return None

    def _keyword(self, chosen: str, rejected: str) -> DropCause | None:
        if self._keywords is None:
            return None
        for side, text in (("chosen", chosen), ("rejected", rejected)):
            if word := self._keywords.find(text):
                return DropCause(DropReason.KEYWORD, f"{side} holds the keyword {word!r}")
        return None

    def _checks_failed(self, prompt: Conversation, chosen: str) -> DropCause | None:
        asked = prompt[-1].content if prompt else ""
        found = passed(self._checks, asked, chosen)
        failed = [name for name, holds in found.items() if not holds]
        if not failed:
            return None
        return DropCause(
            DropReason.CHECKS_FAILED,
            f"chosen fails {len(failed)} of {len(found)} checks: {', '.join(failed)}",
        )

    def _identical_after_truncation(
        self, prompt: Conversation, chosen: str, rejected: str
    ) -> DropCause | None:
        if self._tokens is None:
            return None
        try:
            left = self._tokens.after_truncation(prompt, _turn(chosen), _turn(rejected))
        except RowRefusedError as error:  # no system turns, or roles that must alternate
            return DropCause(
                DropReason.IDENTICAL_AFTER_TRUNCATION, f"training has no tokens of it: {error}"
            )
        if left.chosen != left.rejected:
            return None
        same = (
            f"both sides are the same {len(left.chosen)} tokens"
            if left.chosen
            else "the prompt leaves no token to either side"
        )
        return DropCause(
            DropReason.IDENTICAL_AFTER_TRUNCATION,
            f"{same} within the training length of {self._tokens.max_length}",
        )


def _turn(text: str) -> Conversation:
    return (Message(role="assistant", content=text),)


def _canonical(text: str) -> str:
    """One spelling for texts that differ only in how Unicode codes their accents."""
    return normalize("NFC", text.strip())


def _thinks(text: str) -> bool:
    return without_thinking(text) != text
