"""The numbers of a run's pairs: counts that add up, and how far apart the two sides are.

Reads `prompts.jsonl`, `pairs.jsonl`, `dropped.jsonl` and `manifest.json`; knows nothing of how
they were made.
"""

import itertools
import os
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from clair_apo.errors import RunError
from clair_apo.files import read_jsonl
from clair_apo.records import Contrast, Dropped, DropReason, PreferencePair, Prompt, Record, Stage
from clair_apo.run_folder import MANIFEST, RunFolder
from clair_apo.stats import Interval, mean_interval
from clair_apo.verification import VerificationSummary

PROMPTS = "prompts.jsonl"
PAIRS = "pairs.jsonl"
DROPPED = "dropped.jsonl"

DEFAULT_TOKENIZER = "lower-cased words and punctuation"
"""What the tokens of the Jaccard similarity are, where the manifest does not say."""

MAX_BINS = 20

Unit = Literal["ratio", "characters", "signed characters"]


class DropCount(Record):
    """How many prompts one stage dropped for one reason."""

    stage: Stage
    reason: DropReason
    count: int


class Counts(Record):
    """What became of the prompts; `prompts` is always `paired` + `dropped`."""

    prompts: int
    paired: int
    """Prompts that a pair came of; of a chain several pairs do."""
    pairs: int
    dropped: int
    drops: tuple[DropCount, ...]
    """Every stage and reason that dropped something, in the order of the stages."""


class Statistic(Record):
    """One number per pair, over all pairs."""

    key: str
    label: str
    meaning: str
    unit: Unit
    mean: Interval
    sd: float | None
    """Sample standard deviation; None where there is one pair."""
    minimum: float
    q1: float
    median: float
    q3: float
    maximum: float


class LengthHistogram(Record):
    """Lengths of both sides in characters, counted in the same bins.

    Bin i holds the lengths from `edges[i]` up to, and without, `edges[i + 1]`. All three are
    empty where there are no pairs.
    """

    edges: tuple[int, ...]
    rejected: tuple[int, ...]
    chosen: tuple[int, ...]


class ContrastSummary(Record):
    """The content of `contrast.json`."""

    run: str
    """Name of the run folder."""
    recipes: tuple[str, ...]
    rejected_from: tuple[str, ...]
    """The models that wrote the rejected answers."""
    chosen_from: tuple[str, ...]
    """The models that wrote the chosen answers."""
    tokenizer: str
    """What the tokens of the Jaccard similarity are."""
    counts: Counts
    statistics: tuple[Statistic, ...]
    """Empty where there are no pairs."""
    lengths: LengthHistogram
    verification: VerificationSummary | None = None
    """What the verifying judge found; None where the pairs were not verified."""


def length_change(contrast: Contrast) -> int:
    """Length of the chosen answer minus that of the rejected one, in characters."""
    return contrast.chosen_characters - contrast.rejected_characters


class _Measure(Record):
    key: str
    label: str
    meaning: str
    unit: Unit
    of: Callable[[Contrast], float]


MEASURES = (
    _Measure(
        key="jaccard",
        label="Jaccard similarity",
        meaning="tokens that both sides share over all their tokens, as sets",
        unit="ratio",
        of=lambda c: c.jaccard,
    ),
    _Measure(
        key="levenshtein",
        label="Levenshtein distance",
        meaning="single-character edits from rejected to chosen",
        unit="characters",
        of=lambda c: c.levenshtein,
    ),
    _Measure(
        key="levenshtein_share",
        label="Levenshtein share",
        meaning="the distance over the length of the longer side",
        unit="ratio",
        of=lambda c: c.levenshtein_share,
    ),
    _Measure(
        key="rejected_characters",
        label="Rejected length",
        meaning="characters",
        unit="characters",
        of=lambda c: c.rejected_characters,
    ),
    _Measure(
        key="chosen_characters",
        label="Chosen length",
        meaning="characters",
        unit="characters",
        of=lambda c: c.chosen_characters,
    ),
    _Measure(
        key="length_change",
        label="Length change",
        meaning="characters, chosen minus rejected",
        unit="signed characters",
        of=length_change,
    ),
)


def summarise(run: RunFolder, read: Callable[[], None] = lambda: None) -> ContrastSummary:
    """Count a run's prompts and measure all of its pairs.

    Args:
        run: the run's folder.
        read: called for every row that was read.

    Raises:
        RunError: no run folder, a file is missing, or the counts do not close.
        DataError: a file has a line that is not its record.
    """
    check_complete(run)
    manifest = run.manifest()
    # numbers, not records: of a million pairs these are 48 MB
    columns = {measure.key: array("d") for measure in MEASURES}
    prompts = array("q")  # of each pair, by number
    last = ""
    recipes, rejected, chosen = set[str](), set[str](), set[str]()
    for pair in read_jsonl(run.file(PAIRS), PreferencePair):
        for measure in MEASURES:
            columns[measure.key].append(measure.of(pair.contrast))
        # all pairs of a prompt stand together
        prompts.append((prompts[-1] if prompts else -1) + (pair.id != last))
        last = pair.id
        read()
        recipes.add(pair.recipe)
        rejected.add(pair.provenance.rejected.model)
        chosen.add(pair.provenance.chosen.model)
    return ContrastSummary(
        run=os.fsencode(run.path.resolve().name).decode(errors="replace"),
        recipes=_names(recipes, manifest, "recipe"),
        rejected_from=_names(rejected, manifest, "target", "model"),
        chosen_from=_names(chosen, manifest, "reviser", "model"),
        tokenizer=str(manifest.get("contrast_tokenizer") or DEFAULT_TOKENIZER),
        counts=_closed_counts(run, prompts, read),
        statistics=tuple(
            _statistic(m, columns[m.key], prompts) for m in MEASURES if columns[m.key]
        ),
        lengths=length_histogram(
            rejected=array("q", map(int, columns["rejected_characters"])),
            chosen=array("q", map(int, columns["chosen_characters"])),
        ),
        verification=_verification(manifest),
    )


def _verification(manifest: Mapping[str, Any]) -> VerificationSummary | None:
    numbers = manifest.get("stages", {}).get("verify", {}).get("verification")
    return VerificationSummary(**numbers) if numbers else None


def check_complete(run: RunFolder) -> None:
    """Make sure that the files of a finished generation are there.

    Raises:
        RunError: names what is missing and what to run.
    """
    if not run.path.is_dir():
        raise RunError(
            f"{run.path}: no such run folder; make one with `clair-apo generate --config FILE.yaml`"
        )
    missing = [n for n in (PROMPTS, PAIRS, DROPPED, MANIFEST) if not run.file(n).is_file()]
    if missing:
        raise RunError(
            f"{run.path}: no {', '.join(missing)}; "
            "run `clair-apo generate` to its end first, with this run_dir"
        )


def _names(found: set[str], manifest: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    """The names that the pairs bear or, where there are no pairs, the configured one."""
    if found:
        return tuple(sorted(found))
    value: Any = manifest.get("config")
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return (value,) if isinstance(value, str) and value else ()


def _closed_counts(run: RunFolder, pairs: Sequence[int], read: Callable[[], None]) -> Counts:
    paired = pairs[-1] + 1 if pairs else 0
    drops = Counter[tuple[Stage, DropReason]]()
    for drop in read_jsonl(run.file(DROPPED), Dropped):
        drops[drop.stage, drop.reason] += 1
        read()
    dropped = sum(drops.values())
    # prompts.jsonl is what the load stage let through: what load dropped stands beside it
    loaded = 0
    for _ in read_jsonl(run.file(PROMPTS), Prompt):
        loaded += 1
        read()
    at_load = sum(count for (stage, _), count in drops.items() if stage is Stage.LOAD)
    if loaded + at_load != paired + dropped:
        raise RunError(
            f"{run.path}: the counts do not close: {loaded + at_load} prompts in, but {paired} "
            f"paired + {dropped} dropped = {paired + dropped}; run `clair-apo generate` again"
        )
    order = {stage: place for place, stage in enumerate(Stage)}
    return Counts(
        prompts=loaded + at_load,
        paired=paired,
        pairs=len(pairs),
        dropped=dropped,
        drops=tuple(
            DropCount(stage=stage, reason=reason, count=drops[stage, reason])
            for stage, reason in sorted(drops, key=lambda drop: (order[drop[0]], drop[1]))
        ),
    )


def _statistic(measure: _Measure, values: Sequence[float], prompts: Sequence[int]) -> Statistic:
    """Sum up a number of every pair; `prompts` are the clusters of its interval."""
    several = len(values) > 1
    q1, median, q3 = (
        statistics.quantiles(values, n=4, method="inclusive") if several else [values[0]] * 3
    )
    return Statistic(
        key=measure.key,
        label=measure.label,
        meaning=measure.meaning,
        unit=measure.unit,
        mean=mean_interval(values, clusters=prompts),
        sd=statistics.stdev(values) if several else None,
        minimum=min(values),
        q1=q1,
        median=median,
        q3=q3,
        maximum=max(values),
    )


def length_histogram(*, rejected: Sequence[int], chosen: Sequence[int]) -> LengthHistogram:
    """Count both sides in at most `MAX_BINS` bins whose width is a round number."""
    if not rejected and not chosen:
        return LengthHistogram(edges=(), rejected=(), chosen=())
    low, high = (extreme(itertools.chain(rejected, chosen)) for extreme in (min, max))
    width = _round_width(low, high)
    first, last = low // width, high // width
    bins = range(first, last + 1)

    def counted(values: Sequence[int]) -> tuple[int, ...]:
        counts = Counter(value // width for value in values)
        return tuple(counts[number] for number in bins)

    return LengthHistogram(
        edges=tuple(number * width for number in range(first, last + 2)),
        rejected=counted(rejected),
        chosen=counted(chosen),
    )


def _round_width(low: int, high: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that needs at most `MAX_BINS` bins."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            width = digit * power
            if high // width - low // width < MAX_BINS:
                return width
        power *= 10
