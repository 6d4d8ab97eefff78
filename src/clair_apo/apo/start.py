"""The first step of a run: does it start, or go on, against the reference it should have?"""

import logging
from typing import Any

from datasets import Dataset

from clair_apo.apo.anchors import PairOutcomes, pair_metrics
from clair_apo.apo.facts import describe_data
from clair_apo.apo.invariants import check_first_step, check_resumed_reference
from clair_apo.apo.reference import reference_logps
from clair_apo.errors import TrainingError

_PROBE = "clair_apo.reference_probe"
"""Where the trainer's state keeps what the reference said of the first pair."""

logger = logging.getLogger(__name__)


class StartGuard:
    """Stops a run whose policy does not start at its reference, or that resumes against another.

    Args:
        trainer: an `APOTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self.checked = False
        self._trainer = trainer

    def check(self, outcomes: PairOutcomes | None) -> None:
        """Look at the first batch, once.

        Args:
            outcomes: of all processes; None where TRL computes the loss, which is not looked at.

        Raises:
            TrainingError: says what to check.
        """
        self.checked = True
        if outcomes is None:
            return
        trainer = self._trainer
        if trainer.state.global_step == 0 and trainer.starts_at_reference:
            check_first_step(
                outcomes,
                trainer.objective,
                weight=sum(map(abs, trainer.loss_weights)),
                tolerance=trainer.logp_tolerance,
            )
        elif trainer.state.global_step == 0:
            rewards = pair_metrics(outcomes, trainer.objective)
            logger.warning(
                "step 0: another reference was passed; mean rewards of the first batch: winner "
                f"{rewards['rewards/chosen']:+.3f}, loser {rewards['rewards/rejected']:+.3f}"
            )
        self._check_probe()

    def _check_probe(self) -> None:
        """Keep what the data is, and what the reference says of it, for a run that is resumed."""
        trainer = self._trainer
        pairs = trainer.train_dataset
        if not isinstance(pairs, Dataset):
            return
        batch = trainer.first_pairs(1, trainer.data_collator)
        found = [logps.item() for logps in reference_logps(trainer, batch)]
        described = describe_data(trainer)
        kept = trainer.state.stateful_callbacks.setdefault(
            _PROBE, {"logps": found, "data": described}
        )
        if kept["data"] != described:
            raise TrainingError(
                f"the run began with other pairs ({kept['data']}) than these ({described}): resume "
                "with the same, or start in another output_dir"
            )
        tokens = batch["completion_mask"].sum(1).tolist()
        check_resumed_reference(kept["logps"], found, tokens, tolerance=trainer.logp_tolerance)
