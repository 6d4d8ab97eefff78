"""Reads pairs, chooses by a rule, and writes what was kept and what was left out."""

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from clair_apo.errors import DataError
from clair_apo.files import atomic_writer
from clair_apo.ingest.pairs import pairs_of
from clair_apo.records import Record
from clair_apo.run_folder import git_revision, now, package_versions, write_json
from clair_apo.select.choose import KEPT, Candidate, choose
from clair_apo.select.rule import Rule
from clair_apo.select.values import PairRow, read_pairs, value_of
from clair_apo.stats import Interval, mean_interval

SELECTED, LEFT_OUT, MANIFEST = "selected.jsonl", "left_out.jsonl", "select.json"


class Spread(Record):
    """How a number is spread over pairs."""

    mean: Interval
    """Over prompts: pairs of one prompt are not independent."""
    minimum: float
    q1: float
    median: float
    q3: float
    maximum: float


class Selection(Record):
    """The result, as `select.json` holds it."""

    pairs: str
    """What was chosen from."""
    split: str
    rule: Rule
    reference: str | None
    """The training config whose reference gave log-ratio margins."""
    n: int
    """Pairs that there were."""
    kept: int
    left_out: dict[str, int]
    """How many pairs each reason took."""
    by_source: dict[str, int]
    """How many pairs of each source were kept."""
    before: Spread | None
    """Of all pairs that have a number; None where none has."""
    after: Spread | None
    """Of those that were kept."""


def select(
    pairs: str,
    rule: Rule,
    out: Path,
    *,
    split: str = "train",
    margins: Mapping[str, float] | None = None,
    reference: str | None = None,
) -> Selection:
    """Keep the pairs that a rule wants.

    Writes `selected.jsonl` with the rows as they were, in their order; `left_out.jsonl` with each
    other row, its number and the reason; and `select.json`.

    Args:
        pairs: a run folder, a JSONL or Parquet file, a folder of `datasets`, or a hub name.
        rule: which pairs are kept.
        out: the folder to write to.
        split: of data that has several.
        margins: log-ratio margins by the digest of the row, for `logratio_margin`.
        reference: names the config that they come from.

    Raises:
        DataError: no pairs, a row that is none, or no pair with the number that decides.
    """
    name = pairs_of(pairs)
    value = value_of(rule.by, margins or {})
    candidates, prompts = [], []
    for row in read_pairs(name, split):
        candidates.append(Candidate(value(row), row.source, row.digest))
        prompts.append(row.pair.id)
    _check(name, candidates, rule)
    reasons = choose(candidates, rule)
    found = _summed_up(pairs, split, rule, reference, candidates, prompts, reasons)
    _write(out, read_pairs(name, split), candidates, reasons)
    facts = {"created": now(), "packages": package_versions(), "git_revision": git_revision()}
    write_json(out / MANIFEST, found.model_dump(mode="json") | facts)
    return found


def _check(name: str, candidates: Sequence[Candidate], rule: Rule) -> None:
    if not candidates:
        raise DataError(f"{name}: there is not one pair in it")
    if all(candidate.value is None for candidate in candidates):
        raise DataError(f"{name}: not one of {len(candidates)} pairs has a {rule.by}: {_way(rule)}")


def _way(rule: Rule) -> str:
    if rule.by == "score_margin":
        return (
            "make them with a scorer (docs/scoring.md), or give the columns score_chosen and "
            "score_rejected"
        )
    return "the training config must name the same pairs"


def _summed_up(
    pairs: str,
    split: str,
    rule: Rule,
    reference: str | None,
    candidates: Sequence[Candidate],
    prompts: Sequence[str],
    reasons: Sequence[str],
) -> Selection:
    kept = [number for number, reason in enumerate(reasons) if reason == KEPT]
    return Selection(
        pairs=pairs,
        split=split,
        rule=rule,
        reference=reference,
        n=len(candidates),
        kept=len(kept),
        left_out=dict(Counter(reason for reason in reasons if reason != KEPT).most_common()),
        by_source=dict(sorted(Counter(candidates[number].source for number in kept).items())),
        before=_spread(range(len(candidates)), candidates, prompts),
        after=_spread(kept, candidates, prompts),
    )


def _spread(
    numbers: Sequence[int], candidates: Sequence[Candidate], prompts: Sequence[str]
) -> Spread | None:
    known = [(value, prompts[n]) for n in numbers if (value := candidates[n].value) is not None]
    if not known:
        return None
    values = [value for value, _ in known]
    q1, median, q3 = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return Spread(
        mean=mean_interval(values, clusters=[prompt for _, prompt in known]),
        minimum=min(values),
        q1=q1,
        median=median,
        q3=q3,
        maximum=max(values),
    )


def _write(
    out: Path, rows: Iterator[PairRow], candidates: Sequence[Candidate], reasons: Sequence[str]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        selected = stack.enter_context(atomic_writer(out / SELECTED))
        left_out = stack.enter_context(atomic_writer(out / LEFT_OUT))
        for row, candidate, reason in zip(rows, candidates, reasons, strict=True):
            if reason == KEPT:
                selected.write(_line(dict(row.row)))
                continue
            entry = {"value": candidate.value, "reason": reason, "row": dict(row.row)}
            left_out.write(_line(entry))


def _line(row: Mapping[str, Any]) -> str:
    # Parquet holds dates and the like, which JSON spells as text
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"
