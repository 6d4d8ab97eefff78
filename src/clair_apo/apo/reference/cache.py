"""Reference log-probs of all pairs of a run: found in the cache, or computed once and kept.

The reference is the policy as it was passed, never one reloaded by its name. Where the data has a
length, every pair's log-probs are known before the first step, and no second model is held.

What is missing is computed with the policy before its first optimizer step, when it still is the
reference, or with the reference model where there is one. Every process takes part.
"""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import tqdm
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from clair_apo.apo.error_context import Work, named_memory_failure
from clair_apo.apo.forward.batching import PairBatches
from clair_apo.apo.forward.host import Host
from clair_apo.apo.forward.logps import TokenLogps, padded
from clair_apo.apo.forward.shared_prefix import model_name
from clair_apo.apo.reference.fingerprint import agreed_identity
from clair_apo.apo.reference.logprobs import CollateWithReference, KnownPairs, pair_keys
from clair_apo.apo.reference.model import Reference
from clair_apo.apo.reference.model_function import ModelFunction, model_function
from clair_apo.apo.reference.storage import PairTokenLogps, ReferenceStore
from clair_apo.apo.trl_compat import (
    add_fused_lm_head,
    is_spread,
    prepare_deepspeed,
    uses_deepspeed,
    uses_fsdp,
)
from clair_apo.errors import TrainingError

FLUSH_SECONDS = 60.0
"""A computation that is killed loses no more than this."""
_KEYING_BATCH = 64

logger = logging.getLogger(__name__)


class ReferenceRequest(NamedTuple):
    """A data set whose reference log-probs are wanted."""

    dataset: Dataset
    """Tokenized pairs."""
    name: str
    """Of the data set, for progress bars and errors."""
    batch_size: int
    """Pairs for each process at a time."""


class Difference(NamedTuple):
    """How far the log-prob of one answer is from the one in the cache."""

    pair: str
    """The pair's id, or its row."""
    nats: float
    tokens: int


class ReferenceCache:
    """Reference log-probs of the pairs of one run.

    Args:
        host: holds the models, the settings and the state.
        reference: is asked about what no cache has.
        batches: collates the pairs as in training.
        processing_class: tokenizer or processor.
        root: the cache's folder.
        function: of the reference model, where there is one: read before it was spread over
            processes.
        reload: loads that model again, where the host lets it go once it has answered.
    """

    def __init__(
        self,
        host: Host,
        reference: Reference,
        batches: PairBatches,
        processing_class: Any,
        *,
        root: Path,
        function: ModelFunction | None = None,
        reload: Callable[[], Any] | None = None,
    ) -> None:
        self.root = root
        self.known: dict[bytes, PairTokenLogps] = {}
        """Answers by key, of all pairs seen so far."""
        self.computed: set[bytes] = set()
        """Keys of the pairs that no cache had, and that were computed here."""
        self._host = host
        self._reference = reference
        self._batches = batches
        self._processing_class = processing_class
        self._function = function
        self._reload = reload
        self._waiting: list[ReferenceRequest] = []
        self._policy_is_wrapped = False
        self._store: ReferenceStore | None = None

    @property
    def store(self) -> ReferenceStore:
        """The folder of this reference; first asked for while the policy still is the reference."""
        if self._store is None:
            self._store = self._opened()
        return self._store

    def _opened(self) -> ReferenceStore:
        accelerator = self._host.accelerator
        model: Any = self._reference.model or self._reference.policy
        if self._function is None:
            with self._reference.switched_on():
                self._function = model_function(model)
        identity = agreed_identity(
            weights=self._function.digest,
            processing_class=self._processing_class,
            dtype=model.dtype,
            mixed_precision=accelerator.mixed_precision,
            spread=uses_fsdp(accelerator),
        )
        unreadable = self._function.unreadable
        if unreadable:
            logger.warning(
                f"reference cache: {'; '.join(unreadable[:3])}. What that does to the reference "
                "no digest can tell, so its log-probs are computed in this run, and neither taken "
                "from the cache nor kept in it"
            )
        name = model_name(model) or type(model).__name__
        store = ReferenceStore(self.root, identity, name, keeps=not unreadable)
        if not unreadable and (earlier := store.earlier_format()):
            logger.warning(earlier)
        return store

    @property
    def digest(self) -> str | None:
        """Digest of the reference, once it was needed; None where the cache is not used."""
        return self._store.folder.name if self._store and self._store.keeps else None

    def add(self, request: ReferenceRequest) -> None:
        """Find or compute the log-probs of every pair of a data set.

        Where FSDP or DeepSpeed will spread the policy, what is missing waits for `complete`.

        Raises:
            TrainingError: a stream; or pairs are missing, and the policy is its reference no more.
        """
        if not isinstance(request.dataset, Dataset):
            raise TrainingError(
                f"{request.name}: precompute_ref_log_probs needs a data set with a length, not a "
                "stream; set it to false"
            )
        self._add(request)

    @property
    def is_waiting(self) -> bool:
        """Whether pairs wait for `complete`."""
        return bool(self._waiting)

    def complete(self) -> None:
        """Compute what waited, now that the policy is wrapped for training.

        Raises:
            TrainingError: training goes on from a checkpoint, so the policy is not the reference.
        """
        self._policy_is_wrapped = True
        while self._waiting:
            self._add(self._waiting.pop())

    def differences(self, dataset: Dataset, count: int, batch_size: int) -> list[Difference]:
        """Ask the reference again about some pairs that the cache had before this run.

        Args:
            dataset: tokenized pairs that were added.
            count: pairs to ask about, at even distances.
            batch_size: pairs for each process at a time.

        Raises:
            TrainingError: the reference cannot be asked again.
        """
        if why := self._cannot_ask_reason():
            raise TrainingError(f"{why}: verify in one process, without a launcher")
        keys = self._pairs(dataset).keys
        known = [row for row, key in enumerate(keys) if key not in self.computed]
        rows = known[:: max(1, len(known) // count)][:count]
        again = self._answers(ReferenceRequest(dataset, "pairs to verify", batch_size), rows)
        return [
            Difference(
                pair=str(dataset[row].get("id", row)),
                nats=float(abs(new.sum(dtype=np.float64) - old.sum(dtype=np.float64))),
                tokens=len(old),
            )
            for row, answer in zip(rows, again, strict=True)
            for new, old in zip(answer, self.known[keys[row]], strict=True)
        ]

    def margins(self, dataset: Dataset) -> list[float]:
        """Log-probability of chosen minus that of rejected, in nats, of every pair that was added.

        Both are sums over the answer's tokens under the reference, in the order of the data set.
        """
        known = [self.known[key] for key in self._pairs(dataset).keys]
        return [
            float(pair.chosen.sum(dtype=np.float64) - pair.rejected.sum(dtype=np.float64))
            for pair in known
        ]

    def collate(self, inner: Any) -> CollateWithReference:
        """A collator whose batches carry what is known here."""
        return CollateWithReference(inner, self.known, self._host.args.ld_alpha)

    def _add(self, request: ReferenceRequest) -> None:
        with torch.random.fork_rng(devices=[]):  # loaders draw seeds; a full cache changes nothing
            pairs = self._pairs(request.dataset)
            missing = self._missing(pairs)
            if not missing:
                return
            if why := self._cannot_ask_reason():
                raise TrainingError(
                    f"{request.name}: the reference cache {self.store.folder} lacks {len(missing)} "
                    f"of {len(set(pairs.keys))} pairs, and {why}. Run clair-apo reference build "
                    "with these pairs, pass them as eval_dataset when the trainer is made, or "
                    "give the reference a model of its own (ref_model, or reference: PATH in one "
                    "process)"
                )
            if self._asks_policy and self._is_spread and not self._policy_is_wrapped:
                self._waiting.append(request)
                return
            self._compute(request, pairs.keys, missing)

    @property
    def _asks_policy(self) -> bool:
        return self._reference.model is None and self._reload is None

    @property
    def _is_spread(self) -> bool:
        return is_spread(self._host.accelerator)

    def _cannot_ask_reason(self) -> str | None:
        if self._asks_policy:
            trained = self._host.state.global_step > 0
            moved = self._reference.policy_moved_reason() if trained else None
            return moved and f"{moved}, so it cannot be asked"
        if self._reference.model is None and self._is_spread:
            return "the reference was let go, and FSDP and DeepSpeed load none again"
        return None

    def _pairs(self, dataset: Dataset) -> KnownPairs:
        collate = self._batches.collate
        found = list(
            DataLoader(
                dataset,
                batch_size=_KEYING_BATCH,
                collate_fn=lambda rows: pair_keys(collate(rows)),
            )
        )
        return KnownPairs(
            keys=[key for pairs in found for key in pairs.keys],
            tokens=np.concatenate([np.zeros(0, np.int64), *(pairs.tokens for pairs in found)]),
        )

    def _missing(self, pairs: KnownPairs) -> list[int]:
        """Rows to compute, one for each key that some process does not know; longest first."""
        self.known |= self.store.find(set(pairs.keys) - set(self.known))
        first = {key: row for row, key in reversed(list(enumerate(pairs.keys)))}
        rows = np.array(sorted(first.values()), np.int64)
        unknown = torch.tensor([pairs.keys[row] not in self.known for row in rows])
        accelerator = self._host.accelerator
        anywhere = accelerator.reduce(unknown.to(accelerator.device, torch.int32), "sum")
        missing = rows[anywhere.cpu().numpy() > 0].tolist()
        return sorted(missing, key=lambda row: -pairs.tokens[row])

    def _compute(self, request: ReferenceRequest, keys: list[bytes], rows: list[int]) -> None:
        fresh: dict[bytes, PairTokenLogps] = {}
        flushed_at = time.monotonic()
        keeps = self._host.accelerator.is_local_main_process
        waiting = iter(rows)
        try:
            for answer in self._answers(request, rows):
                row = next(waiting)
                if not all(np.isfinite(side).all() for side in answer):
                    raise TrainingError(
                        f"{request.name}: the reference gives NaN or infinity to pair "
                        f"{request.dataset[row].get('id', row)}; try another dtype"
                    )
                fresh[keys[row]] = answer
                self.computed.add(keys[row])
                if keeps and time.monotonic() - flushed_at > FLUSH_SECONDS:
                    self.store.add(fresh)
                    self.known |= fresh
                    fresh, flushed_at = {}, time.monotonic()
        finally:
            self.known |= fresh
            if keeps:
                self.store.add(fresh)

    def _answers(self, request: ReferenceRequest, rows: list[int]) -> Iterator[PairTokenLogps]:
        """The reference's answers to some rows of a data set, in their order, on every process."""
        host, accelerator = self._host, self._host.accelerator
        loader = accelerator.prepare(
            DataLoader(
                request.dataset.select(rows),
                batch_size=request.batch_size,
                collate_fn=self._batches.collate,
            )
        )
        work = Work(
            request.dataset, "precompute_ref_batch_size", request.batch_size, "a reference batch"
        )
        model = self._asked()
        was_training = model.training
        model.eval()
        try:
            for batch in tqdm(loader, desc=f"reference log-probs of {request.name}", leave=False):
                with named_memory_failure(host, batch, work):
                    sides = self._reference.tokens(batch, model)
                yield from map(PairTokenLogps, *(self._gathered(side) for side in sides))
        finally:
            model.train(was_training)

    def _asked(self) -> Any:
        """The policy, or the reference model, loaded again where it was let go."""
        if self._reference.model is not None:
            return self._reference.model
        if self._reload is None:
            return self._host.model_wrapped
        model = self._reload()
        add_fused_lm_head(model)
        return model.to(self._host.accelerator.device)

    def _gathered(self, side: TokenLogps) -> list[NDArray[np.floating]]:
        """One answer for every pair of all processes, in the order of the data set."""
        accelerator = self._host.accelerator
        rows = accelerator.pad_across_processes(padded(side.values, side.lengths), dim=1)
        # for metrics: without the pairs that fill the last batch of several processes
        rows, lengths = accelerator.gather_for_metrics((rows, side.lengths))
        return [
            row[:length].copy()
            for row, length in zip(rows.cpu().numpy(), lengths.tolist(), strict=True)
        ]


def spread_policy(host: Host) -> None:
    """Spread the policy over processes as training would, for a run that does not train.

    Args:
        host: under FSDP or DeepSpeed; gets the wrapped policy.
    """
    accelerator = host.accelerator
    if uses_deepspeed(accelerator):
        host.model_wrapped = prepare_deepspeed(host.model, accelerator)
        return
    # accelerate shards no model without an optimizer; this one has no state
    unused = torch.optim.SGD(host.model.parameters())
    host.model, _ = accelerator.prepare(host.model, unused)
    host.model_wrapped = host.model


class AskPolicyAtStart(TrainerCallback):
    """Asks the policy for what no cache had when training begins, or checks that it can be asked.

    Under FSDP and DeepSpeed the policy answers only then, when it has been spread.

    Args:
        settle: compares the layouts with the policy as it is wrapped now.
        reference: of the run.
        cache: of the run; None where the reference is asked in every step.
    """

    def __init__(
        self, settle: Callable[[], None], reference: Reference, cache: ReferenceCache | None
    ) -> None:
        self._settle = settle
        self._reference = reference
        self._cache = cache

    def on_train_begin(self, *event: Any, **more: Any) -> None:
        """Settle the layout; compute what no cache had, or see that the policy stays its reference.

        Raises:
            TrainingError: it would not.
        """
        self._settle()
        if self._cache is not None:
            self._cache.complete()
        elif self._reference.model is None and (why := self._reference.policy_moved_reason()):
            raise TrainingError(
                f"{why}, so without the adapter the policy is not its reference: freeze them, set "
                "precompute_ref_log_probs, or pass ref_model"
            )
