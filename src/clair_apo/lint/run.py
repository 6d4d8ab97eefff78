"""Looks over pairs in one reading of their rows, and sums up what the rules found."""

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clair_apo.console import show_progress
from clair_apo.errors import ConfigError
from clair_apo.ingest.pairs import pairs_of
from clair_apo.ingest.rows import split_names
from clair_apo.lint.figures import SideFigures
from clair_apo.lint.prompts import EarlierRows, OtherPrompts
from clair_apo.lint.report import Example, Finding, LintReport, by_severity
from clair_apo.lint.rows import PairRow, Unreadable, is_held_out, read_pairs, row_count
from clair_apo.lint.rules import RULES, THRESHOLDS, Severity
from clair_apo.lint.sides import Hit, look_at_sides
from clair_apo.lint.tokens import MAX_LENGTH, InTraining
from clair_apo.stats import proportion_interval
from clair_apo.text.markup import MARKUP

EXAMPLES = 5
"""Rows that a finding shows: the first ones."""
SHOWN_CHARACTERS = 600
"""Of each text of an example."""
_OF_OTHER_DATA = ("prompt_in_other_data", "near_prompt_in_other_data")
_OF_TOKENS = ("template_refuses", "identical_after_truncation")
_OF_ROWS = ("unreadable", "empty_text")


def lint(
    pairs: str,
    *,
    split: str = "train",
    against: Sequence[str] = (),
    tokenizer: str | None = None,
    max_length: int | None = None,
) -> LintReport:
    """Look preference pairs over; nothing is written. Progress is shown on standard error.

    The rows are read once, and no more than digests of them are kept. Where the data has splits for
    tests, the prompts are compared with those of the splits of the other kind.

    Args:
        pairs: a run folder, a JSON, JSONL or Parquet file, a folder of `datasets`, or a hub name
            (untested: no hub here).
        split: of data that has several.
        against: more data whose prompts must not stand in the pairs, such as a test set.
        tokenizer: of the model to be trained; without one, two rules are left out.
        max_length: tokens of prompt and answer that the trainer keeps; 1024 by default.

    Raises:
        DataError: the data cannot be read, or not one row of it is a pair.
        ConfigError: `max_length` without `tokenizer`, or one that cannot be used.
        ModelNotFoundError: the tokenizer's name leads nowhere.
    """
    if max_length is not None and tokenizer is None:
        raise ConfigError("max_length cuts tokens: name the tokenizer of the model to be trained")
    data = pairs_of(pairs)
    training = InTraining(tokenizer, max_length or MAX_LENGTH) if tokenizer else None
    # several splits of a kind, such as train_prefs and train_sft, may well share their prompts
    splits = [name for name in split_names(data) if is_held_out(name) != is_held_out(split)]
    other = OtherPrompts(against, splits, data) if against or splits else None
    inspection = _Inspection(training, other)
    with show_progress("lint", row_count(data)) as tell:
        for row in read_pairs(data, split):
            inspection.look(row)
            tell("pair" if isinstance(row, PairRow) else row.rule)
    return LintReport(
        data=pairs,
        split=split,
        rows=inspection.rows,
        pairs=inspection.pairs,
        prompts=inspection.earlier.prompts,
        against=(*(f"{data}: {name}" for name in splits), *against),
        tokenizer=tokenizer,
        max_length=(max_length or MAX_LENGTH) if tokenizer else None,
        thresholds=THRESHOLDS,
        **inspection.summary(),
    )


class _Inspection:
    """One reading: what the rules have found in the rows so far."""

    def __init__(self, training: InTraining | None, other: OtherPrompts | None) -> None:
        self.earlier, self.figures = EarlierRows(), SideFigures()
        self.rows = self.pairs = 0
        self._training, self._other = training, other
        self._prompts = array("l")
        self._hits = {name: array("l") for name in RULES}
        self._examples: dict[str, list[Example]] = defaultdict(list)

    def look(self, row: PairRow | Unreadable) -> None:
        """Apply every rule to a row."""
        self.rows += 1
        if isinstance(row, Unreadable):
            self._hits[row.rule].append(self.rows - 1)
            self._show(row.rule, Example(row=row.where, detail=row.reason))
            return
        self.pairs += 1
        for rule, detail in self._found(row):
            self._hits[rule].append(row.number)
            self._show(rule, _example(row, detail))
        self._prompts.append(self.earlier.prompt_number(row))
        for rule, side in self.figures.add(row).items():
            self._show(f"{rule} {side}", _example(row, f"in {side}"))

    def _found(self, row: PairRow) -> Iterator[Hit]:
        yield from look_at_sides(row)
        yield from self.earlier.look(row)
        if self._other:
            yield from self._other.look(row)
        if self._training:
            yield from self._training.look(row)

    def _show(self, rule: str, example: Example) -> None:
        if len(self._examples[rule]) < EXAMPLES:
            self._examples[rule].append(example)

    def summary(self) -> dict[str, Any]:
        """The findings, the rules that found nothing, and those that were not applied."""
        left_out = self._left_out()
        found = {finding.name: finding for finding in self._findings()}
        applied = [name for name in RULES if name not in left_out]
        return {
            "findings": tuple(
                sorted((found[name] for name in applied if name in found), key=by_severity)
            ),
            "clean": tuple(name for name in applied if name not in found),
            "left_out": left_out,
        }

    def _left_out(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self._other is None:
            found |= dict.fromkeys(_OF_OTHER_DATA, "the data has one split; name others: --against")
        if self._training is None:
            found |= dict.fromkeys(_OF_TOKENS, "no tokenizer was named: --tokenizer")
        return found

    def _findings(self) -> Iterator[Finding]:
        several = self.earlier.prompts < self.pairs
        clusters = self._prompts.tolist() if several else None
        for name, hits in self._hits.items():
            if hits:
                yield self._finding(name, clusters)
        yield self.figures.length_finding(clusters)
        for kind in MARKUP:
            examples = self._markup_examples(kind)
            if finding := self.figures.markup_finding(kind, clusters, examples):
                yield finding

    def _finding(self, name: str, clusters: Sequence[int] | None) -> Finding:
        rule, hits = RULES[name], self._hits[name]
        n, clusters = (self.rows, None) if name in _OF_ROWS else (self.pairs, clusters)
        flags = np.zeros(n, np.uint8)
        flags[np.asarray(hits)] = 1
        count = int(flags.sum())
        is_more_than_few = count >= rule.from_share * n
        return Finding(
            name=name,
            severity=rule.severity if is_more_than_few else Severity.NOTE,
            what=rule.what,
            advice=rule.advice,
            n=n,
            count=count,
            share=proportion_interval(flags.tolist(), clusters=clusters),
            examples=tuple(self._examples[name]),
        )

    def _markup_examples(self, kind: str) -> Sequence[Example]:
        """The rows of the side that has the marks more often."""
        name = f"markup_gap_{kind}"
        return self._examples[f"{name} {self.figures.side_with_more(kind)}"]


def _example(row: PairRow, detail: str) -> Example:
    # what two long answers share at their beginning does not show how they differ
    both = enumerate(zip(row.chosen, row.rejected, strict=False))
    apart = next((place for place, (one, other) in both if one != other), 0)
    start = apart - SHOWN_CHARACTERS // 3 if apart > SHOWN_CHARACTERS // 2 else 0
    return Example(
        row=row.where,
        detail=detail,
        prompt=_cut(row.asked),
        chosen=_cut(row.chosen, start),
        rejected=_cut(row.rejected, start),
    )


def _cut(text: str, start: int = 0) -> str:
    shown, more = text[start : start + SHOWN_CHARACTERS], len(text) - start - SHOWN_CHARACTERS
    before = f"[{start:,} characters before]\n" if start else ""
    return before + shown + (f"\n[{more:,} more characters]" if more > 0 else "")
