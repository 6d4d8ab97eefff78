"""The layout of a run's pairs: chosen from its settings, confirmed by a comparison."""

import logging
from typing import Any, NamedTuple

from accelerate.utils import gather_object

from clair_apo.apo.config import APOConfig
from clair_apo.apo.forward.layout_check import (
    Agreement,
    Batches,
    compare_layouts,
    foreign_hooks,
)
from clair_apo.apo.forward.layout_choice import (
    LayoutChoice,
    choose_layout,
    reads_whole_batches,
    refused,
    tree_obstacle,
)
from clair_apo.apo.forward.shared_prefix import bare_model

logger = logging.getLogger(__name__)

OVERRIDDEN = "_compute_loss is overridden, and takes padded batches"


class _Compared(NamedTuple):
    """A model that was compared."""

    model: Any
    """Held, so that no other takes its place in memory."""
    hooks: frozenset[str]
    """Modules with hooks of the user's."""
    agreement: Agreement


class PairLayout:
    """How a run lays out its pairs.

    Args:
        args: `pair_layout`, and all that rules shared beginnings out.
        policy: before it is wrapped.
        accelerator: of the run.
        sees_images: whether the policy is given images.
        own_loss: whether a subclass of the trainer computes TRL's loss itself.

    Raises:
        ConfigError: `shared_prefix` was asked for by name, and cannot be used.
    """

    def __init__(
        self,
        args: APOConfig,
        policy: Any,
        accelerator: Any,
        *,
        sees_images: bool = False,
        own_loss: bool = False,
    ) -> None:
        self.reads_whole_batches = False
        """Whether a forward may depend on the other pairs of its batch, or on the padding."""
        self._args = args
        self._accelerator = accelerator
        self._known: dict[int, _Compared] = {}
        if own_loss:
            self._pad(OVERRIDDEN)
            return
        choice = choose_layout(
            args, policy, sees_images=sees_images, parallel=accelerator.parallelism_config
        )
        if choice.reason:
            self._pad(choice.reason)
        else:
            self._choice = choice

    @property
    def name(self) -> str:
        """`shared_prefix` or `padded`."""
        return self._choice.layout

    @property
    def is_padded(self) -> bool:
        """Whether batches go through the model as they are, row by row."""
        return self.name == "padded"

    def settle(self, model: Any, forwards: dict[str, Any], batches: Batches) -> None:
        """Keep shared beginnings only where they give the model's own log-probs.

        All processes call, before anything is computed with them. Each model is compared once, and
        again where its hooks are others.

        Args:
            model: the policy, whose hooks and layers say what a forward reads.
            forwards: models whose forward works now, each by what messages call it.
            batches: of the data of the run.

        Raises:
            ConfigError: `shared_prefix` was asked for by name, and is not exact.
        """
        self.reads_whole_batches = bool(
            reads_whole_batches(self._args, model) or foreign_hooks(model)
        )
        for name, forward in forwards.items():
            if self.is_padded:
                return
            reason = self._agreement(forward, batches).reason
            if reason:
                self._pad(name + reason)

    def _pad(self, reason: str) -> None:
        if self._args.pair_layout == "shared_prefix":
            raise refused(reason)
        if self._args.pair_layout == "auto":
            logger.warning(f"pair_layout auto: padded, because {reason}")
        self._choice = LayoutChoice("padded", reason)

    def _agreement(self, model: Any, batches: Batches) -> Agreement:
        bare = bare_model(model)
        hooks = frozenset(foreign_hooks(model))
        known = self._known.get(id(bare))
        if known is None or known.hooks != hooks:
            known = _Compared(bare, hooks, self._compared(model, batches))
            self._known[id(bare)] = known
        return known.agreement

    def _compared(self, model: Any, batches: Batches) -> Agreement:
        """The same on every process: where one finds a difference, all do."""
        reason = tree_obstacle(bare_model(model))
        if reason:
            return Agreement(0, 0.0, 0.0, reason)
        with self._accelerator.autocast():
            found = compare_layouts(model, batches, self._accelerator.device)
        reasons = [reason for reason in gather_object([found.reason]) if reason]
        return found.because(reasons[0]) if reasons else found
