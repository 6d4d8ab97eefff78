"""The findings of a lint, as they are written down."""

from typing import Literal

from clair_apo.lint.rules import Severity
from clair_apo.records import Record
from clair_apo.stats import Interval

FailOn = Literal["warning", "error", "never"]
"""The least severity at which a lint fails."""
_RANK = (Severity.ERROR, Severity.WARNING, Severity.NOTE)


class Example(Record):
    """A row that a rule found; its texts are cut."""

    row: str
    """File and line, or data set and row."""
    detail: str
    """What was found in it, in words; empty where the rule says it all."""
    prompt: str = ""
    chosen: str = ""
    rejected: str = ""


class Figure(Record):
    """A mean, a share or an effect beside a finding."""

    name: str
    unit: Literal["characters", "share", "standard deviations"]
    value: Interval
    """With its 95 % interval, clustered by prompt."""


class Finding(Record):
    """What one rule found."""

    name: str
    severity: Severity
    what: str
    """What the counted pairs are like."""
    advice: str
    n: int
    """Pairs that were looked at; rows, where the rule is about rows."""
    count: int
    """Those that it found."""
    share: Interval
    """Of them in `n`, with its 95 % interval (Wilson's), clustered by prompt."""
    figures: tuple[Figure, ...] = ()
    examples: tuple[Example, ...] = ()
    """The first rows that it found."""


class LintReport(Record):
    """What a lint found; the content of `lint.json`."""

    data: str
    split: str
    rows: int
    pairs: int
    """Rows that are pairs."""
    prompts: int
    """Different ones; case and white space do not count."""
    against: tuple[str, ...]
    """The data that the prompts were compared with."""
    tokenizer: str | None
    max_length: int | None
    findings: tuple[Finding, ...]
    """Errors first."""
    clean: tuple[str, ...]
    """Rules that found nothing."""
    left_out: dict[str, str]
    """Rules that were not applied, and why."""
    thresholds: dict[str, float]

    def count(self, severity: Severity) -> int:
        """How many findings have a severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def fails(self, fail_on: FailOn = "error") -> bool:
        """Whether there is a finding of this severity, or of a worse one."""
        if fail_on == "never":
            return False
        worst = _RANK[: _RANK.index(Severity(fail_on)) + 1]
        return any(self.count(severity) for severity in worst)


def by_severity(finding: Finding) -> int:
    """The place of a finding among others: errors first."""
    return _RANK.index(finding.severity)
