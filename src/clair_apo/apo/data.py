"""Which pairs are trained on, and which are held out.

The split is decided by each prompt's digest alone: adding rows moves none, and the order of the
file changes nothing.
"""

import statistics
from collections.abc import Iterable
from typing import NamedTuple

from clair_apo.errors import DataError
from clair_apo.ingest.pairs import TrainingPair, load_pairs
from clair_apo.ingest.rows import split_names
from clair_apo.records import digest
from clair_apo.run_folder import is_held_out

TEST = "test"
"""The split that is held out where data brings it."""


class PairSplit(NamedTuple):
    """Pairs to train on and pairs held out, each in the order of their ids."""

    train: tuple[TrainingPair, ...]
    held_out: tuple[TrainingPair, ...]
    rule: str = ""
    """In words: what decided which pairs are held out, or why none are."""
    left: int = 0
    """Pairs beyond `max_pairs`."""

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


def data_digest(pairs: Iterable[TrainingPair]) -> str:
    """SHA-256 over pairs, in hex; the same for the same pairs in the same order."""
    return digest([pair.to_trl_row() for pair in pairs])
