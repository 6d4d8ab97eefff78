"""The first step of a run: does it start, or go on, against the reference it should have?"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset

from clair_apo.apo.checks import check_first_step, check_resumed_reference
from clair_apo.apo.forward.noise import (
    in_eval_mode,
    learns_a_prompt,
    noise_sources,
    starts_elsewhere,
)
from clair_apo.apo.metrics import PairOutcomes, pair_metrics, pair_outcomes
from clair_apo.apo.numbering import WEIGHTS, rows_of
from clair_apo.apo.reference.logprobs import reference_logps, reference_tokens, unwrapped_policy
from clair_apo.apo.run_summary import describe_data
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

    def check(self, outcomes: PairOutcomes | None, batch: Mapping[str, Any]) -> None:
        """Look at the first batch, once; all processes must call.

        Args:
            outcomes: of all processes; None where TRL computes the loss, which is not looked at.
            batch: the batch of this process that they are of.

        Raises:
            TrainingError: says what to check.
        """
        self.checked = True
        if outcomes is None:
            return
        trainer = self._trainer
        if trainer.state.global_step == 0 and trainer.starts_at_reference:
            try:
                self._check_first_step(outcomes)
            except TrainingError as fault:
                self._explain(fault, batch)
        elif trainer.state.global_step == 0:
            rewards = pair_metrics(outcomes, trainer.objective)
            logger.warning(
                "step 0: another reference was passed; mean rewards of the first batch: winner "
                f"{rewards['rewards/chosen']:+.3f}, loser {rewards['rewards/rejected']:+.3f}"
            )
        self._check_probe()

    def _check_first_step(self, outcomes: PairOutcomes) -> None:
        trainer = self._trainer
        check_first_step(
            outcomes,
            trainer.objective,
            weight=sum(map(abs, trainer.loss_weights)),
            tolerance=trainer.logp_tolerance,
        )

    def _explain(self, fault: TrainingError, batch: Mapping[str, Any]) -> None:
        """Go on where only noise keeps the policy from its reference, or a prompt that it learns.

        Raises:
            TrainingError: it is another; names what was found.
        """
        trainer = self._trainer
        policy = unwrapped_policy(trainer)
        sources = noise_sources(trainer.args, policy)
        said = str(fault).split(". Check")[0]
        if self._differs_without_noise(batch):
            if learns_a_prompt(policy):
                logger.warning(f"{said}: the adapter learns a prompt, which does not start at zero")
                return
            found = "; ".join([*starts_elsewhere(policy), *sources])
            raise TrainingError(f"{fault}. Found: {found}" if found else str(fault)) from None
        known = "; ".join(sources) or "no source of it is known here"
        logger.warning(
            f"{said}: in eval mode they are equal, so this is noise of training mode, and training "
            f"goes on. Its source: {known}"
        )

    def _differs_without_noise(self, batch: Mapping[str, Any]) -> bool:
        """Whether the policy is another than its reference in eval mode, on some process."""
        trainer = self._trainer
        if trainer.is_deepspeed_enabled:
            return True  # its engine has stepped already
        batch = {k: v for k, v in trainer._prepare_inputs(dict(batch)).items() if k != WEIGHTS}
        with torch.no_grad(), in_eval_mode(trainer.model):
            forward = trainer.forward_pairs(trainer.model_wrapped, batch, statistics=False)
            reference = reference_tokens(trainer, batch)
        outcomes = pair_outcomes(forward, reference, trainer.objective, rows_of(batch))
        try:
            self._check_first_step(outcomes)
            differs = 0.0
        except TrainingError:
            differs = 1.0
        found = torch.tensor(differs, device=trainer.accelerator.device)
        return bool(trainer.accelerator.reduce(found) > 0)

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
        if not _same_data(kept["data"], described):
            raise TrainingError(
                f"the run began with other pairs ({kept['data']}) than these ({described}): resume "
                "with the same, or start in another output_dir"
            )
        if trainer.args.sync_ref_model:  # it moves, and comes with the checkpoint
            return
        tokens = batch["completion_mask"].sum(1).tolist()
        check_resumed_reference(kept["logps"], found, tokens, tolerance=trainer.logp_tolerance)


def _same_data(before: str, now: str) -> bool:
    """Whether two descriptions are of the same pairs; how many are held out does not count."""
    digests = [re.search("digest ([0-9a-f]+)", text) for text in (before, now)]
    if all(digests):
        return len({found[1] for found in digests if found}) == 1
    return before == now
