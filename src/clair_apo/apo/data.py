"""Which pairs are trained on, and which are held out, of one data set or a mixture of several.

The split is decided by each prompt's digest alone: adding rows moves none, and the order of the
file changes nothing.
"""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clair_apo.errors import ConfigError, DataError
from clair_apo.ingest.pairs import TrainingPair, load_pairs
from clair_apo.ingest.rows import split_names
from clair_apo.records import digest
from clair_apo.run_folder import is_held_out

if TYPE_CHECKING:  # those who only split pairs need no trl
    from trl.scripts.utils import DatasetConfig

TEST = "test"
"""The split that is held out where data brings it."""


class MixedIn(NamedTuple):
    """What a mixture has of one data set."""

    name: str
    """In metrics: the shortest end of its path that no other has."""
    path: str
    split: str
    fraction: float | None
    """The share of the mixture that was asked for, as it was written."""
    trained: int
    held_out: int
    left: int
    """Pairs that the fractions leave out, those that would be held out included."""

    def __str__(self) -> str:
        left = f" ({self.left} left out)" if self.left else ""
        return f"{self.name} {self.trained} and {self.held_out}{left}"


class PairSplit(NamedTuple):
    """Pairs to train on and pairs held out, each in the order of their ids."""

    train: tuple[TrainingPair, ...]
    held_out: tuple[TrainingPair, ...]
    rule: str = ""
    """In words: what decided which pairs are held out, or why none are."""
    left: int = 0
    """Pairs beyond `max_pairs`."""
    sources: tuple[MixedIn, ...] = ()
    """What a mixture has of each data set; empty for one data set alone."""

    @property
    def weights_in_words(self) -> str:
        """What the pairs trained on weigh in the loss; empty where the data has no `weight`."""
        weights = [pair.weight for pair in self.train if pair.weight is not None]
        if not weights:
            return ""
        zeros = f", {weights.count(0)} of them 0" if 0 in weights else ""
        return (
            f"weighted by their column weight: {min(weights):g} to {max(weights):g}, mean "
            f"{statistics.fmean(weights):.3g}{zeros}"
        )


def split_pairs(
    pairs: Iterable[TrainingPair], held_out: float, max_pairs: int | None = None
) -> PairSplit:
    """Hold out pairs by the digest of their prompt, and limit the rest.

    Args:
        pairs: in any order; equal prompts stay together.
        held_out: the share of all possible prompts that is held out, from 0 to below 1.
        max_pairs: train on the first so many, in the order of their ids; None takes all.

    Raises:
        DataError: no pair is left to train on.
    """
    ordered = sorted(pairs, key=lambda pair: (pair.id, digest(pair.to_trl_row())))
    out = tuple(pair for pair in ordered if is_held_out(pair.id, held_out))
    rest = tuple(pair for pair in ordered if not is_held_out(pair.id, held_out))
    if not rest:
        raise DataError(
            f"all {len(ordered)} pairs are held out, none is left to train on; lower held_out"
        )
    if out:
        rule = f"by the digests of their prompts, held_out {held_out:g}"
    elif held_out:
        rule = f"no prompt's digest falls into held_out {held_out:g}; raise it"
    else:
        rule = "held_out is 0"
    train = rest[:max_pairs]
    return PairSplit(train=train, held_out=out, rule=rule, left=len(rest) - len(train))


def load_split_pairs(
    name: str, train_split: str, held_out: float, max_pairs: int | None = None
) -> PairSplit:
    """Load pairs and hold some out: the data's own `test` split, else as `split_pairs`.

    Args:
        name: as `load_pairs` takes it.
        train_split: the split to train on.
        held_out: where the data has a `test` split beside that one, any share above 0 holds out
            that split and nothing else, since it may be of the same prompts; 0 holds out none.
        max_pairs: as `split_pairs` takes it.

    Raises:
        DataError: as the two functions.
    """
    pairs = load_pairs(name, train_split)
    if train_split == TEST or TEST not in split_names(name):
        return split_pairs(pairs, held_out, max_pairs)
    split = split_pairs(pairs, 0, max_pairs)
    if not held_out:
        rule = f"held_out is 0, although {name} has a {TEST} split"
        return PairSplit(split.train, (), rule, split.left)
    tested = split_pairs(load_pairs(name, TEST), 0).train
    both = len({pair.id for pair in tested} & {pair.id for pair in split.train})
    rule = f"the {TEST} split of {name}"
    if both:
        rule += f", {both} of whose prompts are trained on too"
    return PairSplit(split.train, tested, rule, split.left)


def load_mixture(
    parts: "Sequence[DatasetConfig]", held_out: float, max_pairs: int | None = None
) -> PairSplit:
    """Load several data sets, hold some pairs of each out, and keep each one's share of the rest.

    With fractions the mixture is as large as it can be with no pair taken twice, as in TRL's
    `get_dataset`; of a set of which less is wanted, the first pairs in the order of their ids are
    kept, and the same share of its held-out pairs. Pairs without a `weight` weigh 1 where others
    of the mixture have one.

    Args:
        parts: TRL's own form of a part. `path` is what `load_pairs` takes; `split` and `fraction`
            are heeded.
        held_out: for each as `load_split_pairs` takes it.
        max_pairs: of the whole mixture, as `split_pairs` takes it.

    Raises:
        ConfigError: a setting of a part that is not heeded, a part that is named twice, or
            fractions that cannot be.
        DataError: as `load_split_pairs`; no pair is left.
    """
    names = _check_parts(parts)
    loaded = [load_split_pairs(part.path, part.split, held_out) for part in parts]
    shares = _shares([len(split.train) for split in loaded], [part.fraction for part in parts])
    trained: list[TrainingPair] = []
    tested: list[TrainingPair] = []
    sources = []
    for part, name, split, share in zip(parts, names, loaded, shares, strict=True):
        kept = [_first_share(pairs, share) for pairs in (split.train, split.held_out)]
        for to, pairs in zip((trained, tested), kept, strict=True):
            to += [pair.model_copy(update={"dataset_source": name}) for pair in pairs]
        counts = len(kept[0]), len(kept[1])
        left = len(split.train) + len(split.held_out) - sum(counts)
        sources.append(MixedIn(name, part.path, part.split, part.fraction, *counts, left))
    if not trained:
        raise DataError("no pair of the mixture is left to train on; raise the fractions")
    trained, tested = _weighed_alike(trained), _weighed_alike(tested)
    ordered = sorted(trained, key=lambda pair: (pair.id, digest(pair.to_trl_row())))
    train = tuple(ordered[:max_pairs])
    both = len({pair.id for pair in tested} & {pair.id for pair in train})
    words = "; ".join(f"{name}: {split.rule}" for name, split in zip(names, loaded, strict=True))
    words += f"; {both} of these prompts are trained on too" if both else ""
    return PairSplit(train, tuple(tested), words, len(ordered) - len(train), tuple(sources))


def _check_parts(parts: "Sequence[DatasetConfig]") -> list[str]:
    """The names of the parts of a mixture, once their settings are found to be heeded."""
    for part in parts:
        for key in ("name", "data_dir", "data_files", "columns"):
            if getattr(part, key) is not None:
                raise ConfigError(
                    f"datasets, {part.path}: {key} is not read here; save what you want as a file "
                    "or folder, and name that as path"
                )
        if part.fraction is not None and not part.fraction >= 0:
            raise ConfigError(
                f"datasets, {part.path}: fraction must be 0 or above, got {part.fraction}"
            )
    fractions = [part.fraction for part in parts]
    if None in fractions and any(fraction is not None for fraction in fractions):
        raise ConfigError("datasets: give every data set a fraction, or none of them")
    if None not in fractions and not sum(filter(None, fractions)):
        raise ConfigError("datasets: every fraction is 0; at least one must be above")
    return _short_names(parts)


def _short_names(parts: "Sequence[DatasetConfig]") -> list[str]:
    """The shortest ends of paths that differ, with the split where the paths are one."""
    paths = [Path(part.path).with_suffix("").parts for part in parts]
    for count in range(1, 1 + max(map(len, paths))):
        names = ["_".join(parts[-count:]).strip("/") for parts in paths]
        for found in (names, [f"{n}_{p.split}" for n, p in zip(names, parts, strict=True)]):
            if len(set(found)) == len(parts):
                return found
    raise ConfigError("datasets: two of them have the same path and split; leave one out")


def _shares(counts: Sequence[int], fractions: Sequence[float | None]) -> list[float]:
    """The share of each data set's pairs that is kept."""
    wanted = [fraction for fraction in fractions if fraction is not None]
    if not wanted:
        return [1.0] * len(counts)
    parts = [fraction / sum(wanted) for fraction in wanted]
    whole = min(count / part for count, part in zip(counts, parts, strict=True) if part)
    return [part * whole / count for count, part in zip(counts, parts, strict=True)]


def _first_share(pairs: Sequence[TrainingPair], share: float) -> Sequence[TrainingPair]:
    return pairs[: round(share * len(pairs))]


def _weighed_alike(pairs: Sequence[TrainingPair]) -> list[TrainingPair]:
    """Pairs that all have a weight, if any has one."""
    if all(pair.weight is None for pair in pairs):
        return list(pairs)
    return [p if p.weight is not None else p.model_copy(update={"weight": 1.0}) for p in pairs]


def data_digest(pairs: Iterable[TrainingPair]) -> str:
    """SHA-256 over pairs, in hex; the same for the same pairs in the same order."""
    return digest([pair.to_trl_row() for pair in pairs])
