"""Builds and verifies the reference cache for the pairs of a training config.

`clair-apo reference build`, `clair-apo reference verify --config` and `scripts/build_reference.py`
call it.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from clair_apo.apo.arguments import TrainingSetup, parse_arguments
from clair_apo.apo.data import PairSplit
from clair_apo.apo.process_exit import freeze_objects_for_exit
from clair_apo.apo.train import is_quickly_done, load_split, make_trainer, quiet
from clair_apo.apo.trainer import APOTrainer
from clair_apo.console import print_result
from clair_apo.errors import ConfigError, DataError, StoreError
from clair_apo.records import digest
from clair_apo.run_folder import Shard

VERIFIED_PAIRS = 16
"""Pairs whose reference is asked again by `verify --config`; of each part of the data."""


class BuiltReference(NamedTuple):
    """The pairs that a cache holds of a config's data, and how many were computed for it."""

    folder: Path
    pairs: int
    """Different pairs, trained on and held out."""
    computed: int
    """Pairs that the cache lacked before."""


def main(argv: Sequence[str] | None = None) -> None:
    """Build the reference of a training config, and print what was there and what was computed.

    Raises:
        ClairApoError: whatever the user can mend.
    """
    shard, rest = _taken_shard(sys.argv[1:] if argv is None else argv)
    setup = parse_arguments(rest)
    built = build_reference(setup, shard)
    if setup.args.process_index == 0:
        print_result(
            f"{built.pairs} pairs: {built.pairs - built.computed} were in the cache, "
            f"{built.computed} computed now\nreference: {built.folder}"
        )


def _taken_shard(argv: Sequence[str]) -> tuple[Shard | None, list[str]]:
    """Take `--shard i/n` out of a command line whose other options are those of a training."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--shard")
    try:
        options, rest = parser.parse_known_args(argv)
        return (Shard.parse(options.shard) if options.shard is not None else None), rest
    except (argparse.ArgumentError, ValueError) as error:
        raise ConfigError(f"shard: {error}") from None


def build_reference(setup: TrainingSetup, shard: Shard | None = None) -> BuiltReference:
    """Fill the cache for the pairs of a training config, trained on and held out; trains nothing.

    Args:
        setup: the config.
        shard: only this part of the pairs, where several machines share them.

    Raises:
        ClairApoError: whatever the user can mend.
    """
    trainer = _built(setup, shard)
    cache = trainer.reference_cache
    if not cache.store.keeps:
        raise StoreError(
            "this reference has hooks or functions of the user's own, so nothing of it is kept"
        )
    built = BuiltReference(cache.store.folder, len(cache.known), len(cache.computed))
    freeze_objects_for_exit(setup.args.world_size)
    # else torch warns of a process group that nobody ended
    trainer.end()  # type: ignore[no-untyped-call]
    return built


def reference_margins(setup: TrainingSetup) -> dict[str, float]:
    """The log-ratio margin of every pair of a training config under its reference.

    Taken from the cache; what it lacks is computed and kept.

    Args:
        setup: the config; all its pairs count, trained on, held out, or beyond `max_pairs`.

    Returns:
        By the digest of a pair's row: log-probability of chosen minus that of rejected, in nats,
        summed over the answers.

    Raises:
        ClairApoError: whatever the user can mend.
    """
    setup = setup._replace(script=replace(setup.script, max_pairs=None))
    trainer = _built(setup)
    split = load_split(setup)
    parts = ((split.train, trainer.train_dataset), (split.held_out, trainer.eval_dataset))
    found = {
        digest(pair.to_trl_row()): margin
        for pairs, dataset in parts
        if dataset is not None
        for pair, margin in zip(pairs, trainer.reference_cache.margins(dataset), strict=True)
    }
    freeze_objects_for_exit(setup.args.world_size)
    trainer.end()  # type: ignore[no-untyped-call]
    return found


def verify_pairs(setup: TrainingSetup) -> str:
    """Ask the reference again about some pairs of a training config, and compare.

    Raises:
        StoreError: an answer differs by more than the dtype explains.
    """
    trainer = _built(setup)
    cache = trainer.reference_cache
    size = setup.args.precompute_ref_batch_size or setup.args.per_device_eval_batch_size
    parts = [trainer.train_dataset, trainer.eval_dataset]
    found = [
        difference
        for part in parts
        if part is not None
        for difference in cache.differences(part, VERIFIED_PAIRS, size)
    ]
    tolerance = trainer.logp_tolerance
    for pair, nats, tokens in found:
        if not nats <= tolerance * tokens**0.5:
            raise StoreError(
                f"{cache.store.folder}: pair {pair} differs by {nats:.4g} nats from what its "
                f"reference says now (allowed: {tolerance * tokens**0.5:.2g}); delete the folder"
            )
    worst = max((difference.nats for difference in found), default=0.0)
    return f"{len(found)} answers were asked again; the largest difference is {worst:.2g} nats"


def _built(setup: TrainingSetup, shard: Shard | None = None) -> APOTrainer:
    setup.args.precompute_ref_log_probs = True
    split = load_split(setup)
    if shard is not None:
        split = _part(split, shard)
    with quiet(few=is_quickly_done(split)):
        trainer = make_trainer(setup, split)
        trainer.complete_reference()
    return trainer


def _part(split: PairSplit, shard: Shard) -> PairSplit:
    """The pairs of a shard: those trained on where there are any, and the held-out ones."""
    train, held_out = (
        tuple(pair for pair in pairs if shard.holds(digest(pair.to_trl_row())))
        for pairs in (split.train, split.held_out)
    )
    if not train and not held_out:
        count = len(split.train) + len(split.held_out)
        raise DataError(f"shard {shard.name} holds none of the {count} pairs; take fewer shards")
    return split._replace(train=train or held_out, held_out=held_out if train else ())
