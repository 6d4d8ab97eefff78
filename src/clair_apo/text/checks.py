r"""Checks: rules about an answer that code can decide, written as data or as a function.

A file of checks is YAML, one entry a rule, with a name and exactly one test:

    checks:
      - {name: next_step, matches: '\nNext step: .+\Z'}
      - {name: no_list, no_list: true}
      - {name: short, max_sentences: 6}

In Python a check is a name and a function of prompt and answer: `Check("polite", function)`.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import regex
from pydantic import Field, ValidationError, field_validator, model_validator

from clair_apo.config import Section, read_yaml
from clair_apo.errors import ConfigError, DataError
from clair_apo.files import first_fault
from clair_apo.records import digest
from clair_apo.text.detectors import language_of
from clair_apo.text.markup import LIST_ITEM
from clair_apo.text.repetition import sentences

SECONDS = 2.0
"""How long a regular expression may look at one answer."""
LANGUAGE_CONFIDENCE = 0.95
"""How sure the language of an answer must be for `language`, as in the gate's strict preset."""

_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Check:
    """A named rule about an answer.

    Attributes:
        name: stands in tables and files.
        holds: whether an answer keeps to the rule; called with the prompt's last turn and the
            answer.
    """

    name: str
    holds: Callable[[str, str], bool]


class Rule(Section):
    """One entry of a file of checks: a name, and exactly one of the tests below it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Letters, digits, `_`, `.` and `-`: it becomes the name of a figure."""
    ends_with: str | None = None
    """The answer ends with this text; blanks at its end do not count."""
    matches: str | None = None
    """This regular expression is found in the answer (syntax of the package `regex`)."""
    lacks: str | None = None
    """This regular expression is not found in the answer."""
    max_sentences: _Count | None = None
    """The answer has at most so many sentences."""
    max_words: _Count | None = None
    """The answer has at most so many words."""
    no_list: bool | None = None
    """No line of the answer begins as the item of a list: a number, a letter, a bullet."""
    language: str | None = None
    """The answer is not clearly in another language than this one (ISO 639-1)."""
    json_: bool | None = Field(None, alias="json")
    """The answer is one JSON value, alone or in one code fence."""
    contains_any: tuple[str, ...] | None = None
    """The answer holds at least one of these texts, whatever its case."""

    @field_validator("matches", "lacks")
    @classmethod
    def _is_an_expression(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return pattern

    @field_validator("no_list", "json_")
    @classmethod
    def _is_true(cls, value: bool | None) -> bool | None:
        if value is False:
            raise ValueError("write true, or leave the rule out")
        return value

    @model_validator(mode="after")
    def _has_one_test(self) -> Self:
        tests = sorted(self.model_fields_set - {"name"})
        if len(tests) != 1:
            found = f"{len(tests)}: {', '.join(tests)}" if tests else "none"
            raise ValueError(f"check {self.name!r} needs exactly one test, and has {found}")
        return self

    def as_check(self) -> Check:
        """The rule as a function of prompt and answer."""
        (test,) = self.model_fields_set - {"name"}
        function, value = _TESTS[test], getattr(self, test)

        def holds(prompt: str, answer: str) -> bool:
            try:
                return function(answer, value)
            except TimeoutError:
                raise DataError(
                    f"check {self.name!r}: its regular expression did not come to an end within "
                    f"{SECONDS:g} s on an answer of {len(answer)} characters; write one that does "
                    "not try so many ways, such as without a repeated group in a repeated group"
                ) from None

        return Check(self.name, holds)


class _Rules(Section):
    checks: tuple[Rule, ...] = Field(min_length=1)

    @field_validator("checks")
    @classmethod
    def _names_differ(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [rule.name for rule in rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two checks are called {twice[0]!r}; give each a name of its own")
        return rules


def load_checks(path: Path | str) -> tuple[Check, ...]:
    """Read a file of checks.

    Raises:
        ConfigError: it cannot be read, or holds something else; names the entry.
    """
    try:
        rules = _Rules.model_validate(read_yaml(Path(path).expanduser()))
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_fault(error).removeprefix('the line: ')}") from None
    return tuple(rule.as_check() for rule in rules.checks)


def checks_digest(path: Path | str) -> str:
    """A digest of what a file of checks says; 16 hex digits.

    Raises:
        ConfigError: it cannot be read.
    """
    return digest(read_yaml(Path(path).expanduser()))[:16]


def passed(checks: Sequence[Check], prompt: str, answer: str) -> dict[str, bool]:
    """Which checks an answer passes, by name.

    Args:
        checks: the rules.
        prompt: the last turn of the conversation that it answers.
        answer: its text.

    Raises:
        DataError: a regular expression does not come to an end.
    """
    return {check.name: check.holds(prompt, answer) for check in checks}


def _found(answer: str, pattern: str) -> bool:
    return regex.search(pattern, answer, timeout=SECONDS) is not None


def _is_json(answer: str, _: bool) -> bool:
    fenced = re.fullmatch(r"(?s)```(?:json)?[^\S\n]*\n(.*)\n```", answer.strip())
    try:
        json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return False
    return True


_TESTS: dict[str, Callable[[str, Any], bool]] = {
    "ends_with": lambda answer, ending: answer.rstrip().endswith(ending.rstrip()),
    "matches": _found,
    "lacks": lambda answer, pattern: not _found(answer, pattern),
    "max_sentences": lambda answer, most: len(sentences(answer)) <= most,
    "max_words": lambda answer, most: len(answer.split()) <= most,
    "no_list": lambda answer, _: LIST_ITEM.search(answer) is None,
    "language": lambda answer, code: language_of(answer, LANGUAGE_CONFIDENCE) in (code, None),
    "json_": _is_json,
    "contains_any": lambda answer, texts: any(
        text.casefold() in answer.casefold() for text in texts
    ),
}
