"""Builds and verifies the reference cache for the pairs of a training config.

`clair-apo reference build`, `clair-apo reference verify --config` and `scripts/build_reference.py`
call it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clair_apo.apo.arguments import TrainingSetup, parse_arguments
from clair_apo.apo.process_exit import freeze_objects_for_exit
from clair_apo.apo.train import is_quickly_done, load_split, make_trainer, quiet
from clair_apo.apo.trainer import APOTrainer
from clair_apo.console import print_result
from clair_apo.errors import StoreError

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
    setup = parse_arguments(sys.argv[1:] if argv is None else argv)
    built = build_reference(setup)
    if setup.args.process_index == 0:
        print_result(
            f"{built.pairs} pairs: {built.pairs - built.computed} were in the cache, "
            f"{built.computed} computed now\nreference: {built.folder}"
        )


def build_reference(setup: TrainingSetup) -> BuiltReference:
    """Fill the cache for the pairs of a training config, trained on and held out; trains nothing.

    Raises:
        ClairApoError: whatever the user can mend.
    """
    trainer = _built(setup)
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


def _built(setup: TrainingSetup) -> APOTrainer:
    setup.args.precompute_ref_log_probs = True
    split = load_split(setup)
    with quiet(few=is_quickly_done(split)):
        trainer = make_trainer(setup, split)
        trainer.complete_reference()
    return trainer
