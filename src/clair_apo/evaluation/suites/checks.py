"""The suite `checks`: which share of the answers keeps to each of your mechanical rules."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from clair_apo.config import UserPath
from clair_apo.evaluation.suites.base import SuiteConfig, SuiteContext, SuiteResult
from clair_apo.evaluation.suites.figures import Figure, RowFigure
from clair_apo.evaluation.suites.prompt_answers import PromptAnswer, answer_prompts, failures
from clair_apo.text.checks import Check, load_checks, passed

ALL, SHARE = "all", "share"
"""The figures of answers that keep to every rule, and of the share of rules that each keeps to."""


class ChecksSuite(SuiteConfig):
    """Rules as data, and the share of answers that keeps to each of them, and to all."""

    suite: Literal["checks"] = "checks"
    checks: UserPath | None = None
    """A YAML file of rules."""
    functions: SkipJsonSchema[tuple[Check, ...]] = Field((), exclude=True)
    """From Python: rules that are functions of prompt and answer."""

    @model_validator(mode="after")
    def _has_rules(self) -> "ChecksSuite":
        if self.checks is None and not self.functions:
            raise ValueError("checks: name a file of rules")
        return self

    def rules(self) -> tuple[Check, ...]:
        """The rules of the file, and those from Python.

        Raises:
            ConfigError: the file cannot be read, or two rules have one name.
        """
        from_file = load_checks(self.checks) if self.checks else ()
        return (*from_file, *self.functions)

    def check(self) -> None:
        """Find out what is wrong with the rules before anything is asked."""
        self.rules()

    def run(self, context: SuiteContext) -> SuiteResult:
        """Check every model's answer to every prompt."""
        rules = self.rules()
        answers = answer_prompts(context)
        held = {name: _held(rules, found) for name, found in answers.items()}
        return SuiteResult(
            figures={name: _figures(rules, rows) for name, rows in held.items()},
            remarks=failures(answers),
            rows={name: _rows(found, held[name]) for name, found in answers.items()},
            counts={
                name: {"failed": sum(one.text is None for one in found)}
                for name, found in answers.items()
            },
        )


def _held(rules: tuple[Check, ...], found: Sequence[PromptAnswer]) -> dict[str, dict[str, bool]]:
    """Which rules each answer keeps to, by the prompt's id; without prompts that have none."""
    texts = {one.id: (one.asked, one.text) for one in found if one.text is not None}
    return {id: passed(rules, asked, text) for id, (asked, text) in texts.items()}


def _figures(rules: tuple[Check, ...], rows: dict[str, dict[str, bool]]) -> dict[str, Figure]:
    by_name: dict[str, dict[str, float]] = {
        rule.name: {id: row[rule.name] for id, row in rows.items()} for rule in rules
    }
    by_name[ALL] = {id: all(row.values()) for id, row in rows.items()}
    by_name[SHARE] = {id: sum(row.values()) / len(row) for id, row in rows.items()}
    return {name: RowFigure(values, unit=True) for name, values in by_name.items()}


def _rows(found: list[PromptAnswer], held: dict[str, dict[str, bool]]) -> list[dict[str, Any]]:
    return [{"id": one.id, "checks": held.get(one.id)} for one in found]
