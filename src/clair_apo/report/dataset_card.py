"""The data set's card: the `README.md` that the hub shows, written beside the splits.

Its front matter tells `datasets` which file is which split and what type each column has; left to
guess, it stops where the first megabytes of a column are empty lists and a later row is not.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from clair_apo.files import Columns, ColumnType, ListOf, columns_of, read_jsonl
from clair_apo.records import (
    STAGE_TITLES,
    DropReason,
    Origin,
    PreferencePair,
    Record,
    canonical_json,
)
from clair_apo.report.contrast import PAIRS, ContrastSummary
from clair_apo.report.pairs_page import REASON_SENTENCES
from clair_apo.report.terminal import numeral, statistic_text
from clair_apo.run_folder import DATASET, SPLITS, SUFFIXES, RunFolder

CARD = "README.md"
TAGS = ("clair-apo", "clair", "preference", "dpo", "apo", "trl", "synthetic")
ROLES = ("target", "reviser", "judge")

Features = list[dict[str, Any]]


class Split(Record):
    """A split and the file that holds it."""

    name: str
    file: str


class SideSource(Record):
    """What one model wrote for the pairs, with its tokens and cost."""

    side: str
    kind: str
    model: str
    pairs: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """US dollars; None where a pair has no price."""


class _Sums(NamedTuple):
    """Tokens and cost of the kept pairs."""

    sources: list[SideSource]
    cost: float | None
    """US dollars of all that was asked for them; None where one has no price."""


def has_dataset(run: RunFolder) -> bool:
    """Whether a run holds a data set, which is what has a card."""
    return next(_splits(run.file(DATASET)), None) is not None


def render_card(
    run: RunFolder, summary: ContrastSummary, read: Callable[[], None] = lambda: None
) -> str | None:
    """The card as Markdown with YAML front matter; None where the run holds no data set.

    Args:
        run: the folder that `summary` was made of.
        summary: what `summarise` returned for it.
        read: called for every row that was read.
    """
    splits = list(_splits(run.file(DATASET)))
    if not splits:
        return None
    manifest, sums = run.manifest(), _sums(run, read)
    sources = sums.sources
    config, stages = manifest.get("config", {}), manifest.get("stages", {})
    settings, packages = manifest.get("settings", {}), manifest.get("packages", {})
    body = (
        _environment()
        .get_template("card.md.jinja")
        .render(
            summary=summary,
            splits=[split.name for split in splits],
            sides=manifest.get("sides"),
            stage_titles=STAGE_TITLES,
            reasons=REASON_SENTENCES,
            statistics=[statistic_text(statistic) for statistic in summary.statistics],
            config=config,
            settings=settings,
            asked=list(_asked_models(config, settings, sources)),
            version=packages.get("clair-apo", ""),
            versions=[f"{name} {version}" for name, version in packages.items()],
            git_revision=manifest.get("git_revision"),
            sources=sources,
            whole_cost=sums.cost,
            test_sets=settings.get("test_sets", []),
            contaminated=_count(summary, DropReason.CONTAMINATED),
            duplicates=_count(summary, DropReason.DUPLICATE),
            comparisons=stages.get("judge", {}).get("comparisons"),
            verification=summary.verification,
        )
    )
    return f"---\n{_front_matter(summary, splits)}\n---\n\n{body}\n"


def _front_matter(summary: ContrastSummary, splits: Sequence[Split]) -> str:
    from huggingface_hub import DatasetCardData

    files = [{"split": split.name, "path": split.file} for split in splits]
    return DatasetCardData(
        pretty_name=summary.run,
        task_categories=["text-generation"],
        size_categories=_size_category(summary.counts.pairs),
        tags=list(TAGS),
        configs=[{"config_name": "default", "data_files": files}],
        dataset_info={"features": features_of(PreferencePair)},
    ).to_yaml()


def features_of(record: type[BaseModel]) -> Features:
    """The columns of a record's rows, as `datasets` writes types into a card."""
    return _features(columns_of(record))


def _features(columns: Columns) -> Features:
    return [{"name": name, **_typed(column)} for name, column in columns.fields]


def _typed(column: ColumnType) -> dict[str, Any]:
    if isinstance(column, ListOf):
        inner = _typed(column.item)
        return {"list": inner.get("struct") or inner.get("dtype") or inner}
    return {"struct": _features(column)} if isinstance(column, Columns) else {"dtype": column}


def _splits(folder: Path) -> Iterator[Split]:
    for name in SPLITS:
        files = [name + suffix for suffix in SUFFIXES if (folder / (name + suffix)).is_file()]
        if files:
            yield Split(name=name, file=files[0])


def _sums(run: RunFolder, read: Callable[[], None]) -> _Sums:
    """Tokens and cost of the kept pairs, by side and by the model that wrote it."""
    found: dict[tuple[str, str, str], _Tally] = defaultdict(_Tally)
    whole: float | None = 0.0
    counted: tuple[str, set[tuple[str, ...]]] = ("", set())
    for pair in read_jsonl(run.file(PAIRS), PreferencePair):
        if pair.id != counted[0]:
            counted = (pair.id, set())
        for side in ("chosen", "rejected"):
            origin: Origin = getattr(pair.provenance, side)
            # the pairs of a chain are made of the same replies
            again = bool(origin.request_keys) and origin.request_keys in counted[1]
            counted[1].add(origin.request_keys)
            found[side, origin.kind, origin.model].add(origin, again=again)
        cost = pair.provenance.cost
        whole = None if whole is None or cost is None else whole + cost
        read()
    sources = [
        SideSource(side=side, kind=kind, model=_public(model), **asdict(tally))
        for (side, kind, model), tally in sorted(found.items())
    ]
    return _Sums(sources, whole)


class AskedModel(NamedTuple):
    """A model that took part in a run."""

    role: str
    """In words."""
    name: str
    """As its answers name it."""
    spec: Mapping[str, Any]
    """Its section of the config."""


def _asked_models(
    config: Mapping[str, Any], settings: Mapping[str, Any], sources: Sequence[SideSource]
) -> Iterator[AskedModel]:
    # a config always names a target, also where the data or a pool brings every answer
    pool = config.get("pool") or ()
    answered = not pool and any(source.kind == "response" for source in sources)
    for role in ROLES:
        spec = config.get(role)
        if spec and (role != "target" or answered):
            yield AskedModel(role.capitalize(), settings.get(role, spec)["model"], spec)
    for number, spec in enumerate(pool):
        yield AskedModel(f"Pool {number + 1}", settings["pool"][number]["model"], spec)
    for kind, spec in (config.get("scorer") or {}).items():
        if kind in ("reward", "judge") and spec:
            yield AskedModel(f"Scorer ({kind})", settings["scorer"]["model"], spec)


@dataclass
class _Tally:
    pairs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0

    def add(self, origin: Origin, *, again: bool) -> None:
        """Count a side; of one whose replies were counted before, nothing but the pair."""
        self.pairs += 1
        if again:
            return
        self.prompt_tokens += origin.prompt_tokens
        self.completion_tokens += origin.completion_tokens
        cost = 0.0 if origin.kind == "given" else origin.cost
        self.cost = None if self.cost is None or cost is None else self.cost + cost


def _public(name: Any) -> str:
    """A model or file as others may know it: where it lay on one machine is no news to them."""
    text = str(name)
    return PurePath(text).name if text.startswith(("/", ".", "~")) else text


def markdown(value: Any) -> str:
    """A value as Markdown that shows it and is nothing else: what models and users wrote is data.

    Template and front matter are ours; everything that the template prints goes through here.
    """
    if isinstance(value, Markup):
        return value
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", " ".join(str(value).split()))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("clair_apo.report"),
        autoescape=False,  # Markdown, not HTML: `finalize` escapes
        finalize=markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"numeral": numeral, "public": _public, "json": canonical_json}
    return environment


def _count(summary: ContrastSummary, reason: DropReason) -> int:
    return sum(drop.count for drop in summary.counts.drops if drop.reason is reason)


def _size_category(pairs: int) -> str:
    """The hub's name for how large a data set is."""
    bounds = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
    return next((name for bound, name in zip(bounds, names, strict=True) if pairs < bound), "n>10M")
