"""The reference of a run: a model of its own, or the policy with its adapter switched."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from clair_apo.apo.forward.host import Host
from clair_apo.apo.forward.logps import PairForward, PairLogps, ReferenceTokens, TokenLogps
from clair_apo.apo.forward.noise import in_eval_mode
from clair_apo.apo.reference.fingerprint import trained_base_weights
from clair_apo.apo.reference.logprobs import TOKEN_COLUMNS
from clair_apo.apo.trl_compat import REFERENCE_ADAPTER, disable_gradient_checkpointing, use_adapter


class Reference:
    """Gives the log-probabilities that rewards are measured against.

    Args:
        host: holds the policy, and the reference model where there is one.
        forward: of a padded batch through a model (`RowRunner.forward`).
        from_base: whether the policy without any adapter is meant (`reference: base`).
    """

    def __init__(
        self, host: Host, forward: Callable[..., PairForward], *, from_base: bool = False
    ) -> None:
        self._host = host
        self._forward = forward
        self._from_base = from_base

    @property
    def model(self) -> Any:
        """The reference model; None where the policy is asked."""
        return self._host.ref_model

    @property
    def policy(self) -> Any:
        """The policy with its adapters; under FSDP the trainer's own model is the wrapper."""
        return self._host.accelerator.unwrap_model(self._host.model, keep_torch_compile=False)

    def forget_copy(self) -> None:
        """Delete TRL's frozen copy of the adapter where the policy without any is the reference."""
        policy = self._host.model
        if self._from_base and REFERENCE_ADAPTER in policy.peft_config:
            policy.delete_adapter(REFERENCE_ADAPTER)  # TRL would take it for the reference

    @contextlib.contextmanager
    def switched_on(self) -> Iterator[None]:
        """While it holds, a policy with an adapter is its own reference.

        Nothing changes where there is a reference model, or no adapter.
        """
        policy = self.policy
        with contextlib.ExitStack() as switched:
            if self.model is None and isinstance(policy, PeftModel):
                with warnings.catch_warnings():
                    # peft's word on trained biases; `policy_moved_reason` sees to them
                    warnings.filterwarnings("ignore", message="Careful, disabling adapter layers")
                    switched.enter_context(use_adapter(policy, self._adapter(policy)))
            yield

    def _adapter(self, policy: PeftModel) -> str | None:
        """TRL's frozen copy of the adapter; None where all are off."""
        copied = REFERENCE_ADAPTER in policy.peft_config and not self._from_base
        return REFERENCE_ADAPTER if copied else None

    def policy_moved_reason(self) -> str | None:
        """Why the policy is not its own reference any more once it trains; None where it is.

        It stays its reference where the adapter is all that trains: then that is switched off, or
        a copy of it on.
        """
        if not isinstance(self.policy, PeftModel):
            return "the policy has been trained"
        trained = trained_base_weights(self.policy)
        if not trained:
            return None
        return f"{len(trained)} weights below the adapter are trained with it ({trained[0]} is one)"

    def tokens(self, batch: Mapping[str, Tensor], model: Any = None) -> ReferenceTokens:
        """Log-probabilities of each scored token of a padded batch, without gradient.

        They are read from the batch where it carries them, else computed.

        Args:
            batch: a padded batch.
            model: the reference as it is wrapped for this forward; by default as the host has it.
        """
        if TOKEN_COLUMNS[0] in batch:
            chosen, chosen_lengths, rejected, rejected_lengths = (batch[c] for c in TOKEN_COLUMNS)
            return ReferenceTokens(
                TokenLogps(chosen, chosen_lengths), TokenLogps(rejected, rejected_lengths)
            )
        policy = self.policy
        if model is None:
            model = self._host.model if self.model is None else self.model
        with (
            torch.no_grad(),
            in_eval_mode(model, policy),
            self.switched_on(),
            disable_gradient_checkpointing(policy, self._host.args.gradient_checkpointing_kwargs),
        ):
            forward = self._forward(model, batch, statistics=False)
        return ReferenceTokens(forward.chosen, forward.rejected)

    def logps(self, batch: Mapping[str, Tensor]) -> PairLogps:
        """Log-probabilities of a padded batch, summed over each answer, (B,) each."""
        tokens = self.tokens(batch)
        return PairLogps(tokens.chosen.sums(), tokens.rejected.sums())
