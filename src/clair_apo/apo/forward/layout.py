"""The layout of a run's pairs: chosen from its settings, proven by a comparison.

Ways through a model are tried from the fastest on: trees through FlexAttention, where the device
has it; trees with attention per branch; padded rows. A model with layers that share nothing has its
sequences one after another in a row, and else padded rows. The first way is taken that gives the
model's own log-probs and gradients.
"""

import logging
from typing import Any, NamedTuple

from accelerate.utils import gather_object

from clair_apo.apo.config import APOConfig
from clair_apo.apo.forward.attention import SEQUENCES, tree_kernels
from clair_apo.apo.forward.layout_check import (
    PADDED,
    WAYS,
    Agreement,
    compare_layouts,
    foreign_hooks,
)
from clair_apo.apo.forward.layout_choice import (
    choose_layout,
    reads_whole_batches,
    refused,
    sequence_obstacle,
    tree_obstacle,
)
from clair_apo.apo.forward.layout_measure import Batches
from clair_apo.apo.forward.shared_prefix import bare_model
from clair_apo.records import Record

logger = logging.getLogger(__name__)

_NAMES = {PADDED: PADDED, SEQUENCES: "sequences without padding"}
OVERRIDDEN = "_compute_loss is overridden, and takes padded batches"


class LayoutProof(Record):
    """How a run's pairs go through its models, and what was compared to know that it may."""

    way: str
    """A key of `layout_check.WAYS`."""
    reason: str | None = None
    """Why pairs do not share their beginning, where that was not asked for."""
    compared: tuple[Agreement, ...] = ()
    """Every way that was tried, in order, with each model; empty where settings decide."""

    def __str__(self) -> str:
        """In a line: the way, how far it is from the model's own forward, and what failed."""
        way = _NAMES.get(self.way) or f"shared_prefix through {WAYS[self.way]}"
        taken = [
            f"{found.model}{found}"
            for found in self.compared
            if found.way == self.way and found.tokens
        ]
        given_up = [
            f"not {WAYS[found.way]}: {found.model}{found.reason}"
            for found in self.compared
            if found.way != self.way and found.reason
        ]
        if self.reason and not (given_up and self.way == PADDED):
            given_up = [self.reason]
        return "; ".join([way, *taken, *given_up])


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
        self._known: dict[tuple[int, str], _Compared] = {}
        self._tried: list[Agreement] = []
        self._reason: str | None = None
        self._ways = [PADDED]
        if own_loss:
            self._pad(OVERRIDDEN)
            return
        choice = choose_layout(args, policy, sees_images=sees_images)
        if choice.reason:
            self._pad(choice.reason)
        elif choice.layout == SEQUENCES:
            self._ways, self._reason = [SEQUENCES, PADDED], choice.shares_nothing
        elif choice.layout != PADDED:
            self._ways = [*tree_kernels(accelerator.device), PADDED]

    @property
    def name(self) -> str:
        """`shared_prefix`, `sequences` or `padded`."""
        return self.way if self.way in _NAMES else "shared_prefix"

    @property
    def way(self) -> str:
        """How a batch goes through a model: a key of `layout_check.WAYS`."""
        return self._ways[0]

    @property
    def is_padded(self) -> bool:
        """Whether batches go through the model as they are, row by row."""
        return self.way == PADDED

    @property
    def proof(self) -> LayoutProof:
        """What is known so far."""
        return LayoutProof(way=self.way, reason=self._reason, compared=tuple(self._tried))

    def settle(self, model: Any, forwards: dict[str, Any], batches: Batches) -> None:
        """Take the first way that gives each model's own log-probs, and the policy's gradients.

        All processes call, before anything is computed with them. Each model is compared once on
        each way, and again where its hooks are others.

        Args:
            model: the policy, whose hooks and layers say what a forward reads.
            forwards: models whose forward works now, each by what messages call it; the policy by
                an empty name.
            batches: of the data of the run.

        Raises:
            ConfigError: `shared_prefix` was asked for by name, and is not exact.
        """
        self.reads_whole_batches = bool(
            reads_whole_batches(self._args, model) or foreign_hooks(model)
        )
        if self.is_padded:
            return
        before = len(self._tried)
        for name, forward in forwards.items():
            obstacle = sequence_obstacle if self.way == SEQUENCES else tree_obstacle
            if reason := obstacle(bare_model(forward), self._args.max_length):
                self._pad(name + reason)
                return
        while not self.is_padded and (reason := self._disagreement(forwards, batches)):
            self._give_up(reason)
        if self.is_padded and (reason := self._disagreement(forwards, batches)):
            logger.warning(
                f"pair_layout: {reason}. That is the head of TRL, which has no other way: what is "
                "trained is not what this model says when it is used"
            )
        if len(self._tried) > before:
            logger.info(f"pair_layout {self._args.pair_layout}: {self.proof}")

    def _disagreement(self, forwards: dict[str, Any], batches: Batches) -> str | None:
        """Why the way that is taken now is wrong for some model; None where it is right for all."""
        for name, forward in forwards.items():
            reason = self._agreement(name, forward, batches).reason
            if reason:
                return name + reason
        return None

    def _give_up(self, reason: str) -> None:
        """Take the next way."""
        if len(self._ways) == 2:
            self._pad(reason)
            return
        del self._ways[0]
        logger.warning(f"pair_layout {self._args.pair_layout}: {WAYS[self.way]}, because {reason}")

    def _pad(self, reason: str) -> None:
        if self._args.pair_layout == "shared_prefix":
            raise refused(reason)
        if self._args.pair_layout == "auto":
            logger.warning(f"pair_layout auto: padded, because {reason}")
        self._ways, self._reason = [PADDED], reason

    def _agreement(self, name: str, model: Any, batches: Batches) -> Agreement:
        bare = bare_model(model)
        hooks = frozenset(foreign_hooks(model))
        known = self._known.get((id(bare), self.way))
        if known is None or known.hooks != hooks:
            known = _Compared(bare, hooks, self._compared(name, model, batches))
            self._known[id(bare), self.way] = known
            self._tried.append(known.agreement)
        return known.agreement

    def _compared(self, name: str, model: Any, batches: Batches) -> Agreement:
        """The same on every process: where one finds a difference, all do."""
        found = compare_layouts(
            model,
            batches,
            self._accelerator.device,
            self.way,
            trained=not name,
            autocast=self._accelerator.autocast,
        ).model_copy(update={"model": name})
        reasons = [reason for reason in gather_object([found.reason]) if reason]
        return found.because(reasons[0]) if reasons else found
