"""The reference of all pairs of a run: found in the cache, or computed once and kept there.

What is missing is computed with the policy before its first optimizer step, when it still is the
reference, or with the reference model where there is one. Every process takes part.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate.utils import tqdm
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from clair_apo.apo.checks import check_head
from clair_apo.apo.error_context import Work, named_memory_failure
from clair_apo.apo.forward.logps import TokenLogps, padded
from clair_apo.apo.forward.row_runner import RowTrainer
from clair_apo.apo.reference.choose import reference_adapter, unwrapped_policy, why_policy_moved
from clair_apo.apo.reference.fingerprint import agreed_identity
from clair_apo.apo.reference.logprobs import (
    CollateWithReference,
    KnownPairs,
    pair_keys,
    reference_tokens,
)
from clair_apo.apo.reference.model_function import ModelFunction, model_function
from clair_apo.apo.reference.storage import PairTokenLogps, ReferenceStore
from clair_apo.apo.trl_compat import add_fused_lm_head, prepare_deepspeed, uses_fsdp
from clair_apo.errors import TrainingError

FLUSH_SECONDS = 60.0
"""A computation that is killed loses no more than this."""
_KEYING_BATCH = 64

logger = logging.getLogger(__name__)


class _Request(NamedTuple):
    """A data set whose reference is asked for."""

    dataset: Dataset
    name: str
    batch_size: int


class Difference(NamedTuple):
    """How far the reference's answer of now is from the one in the cache, for one answer."""

    pair: str
    """Its id, or its row."""
    nats: float
    tokens: int


class ReferenceCache:
    """Reference log-probs for one trainer.

    Args:
        trainer: with model, reference and tokenizer in place.
        root: the cache's folder.
        function: of the reference model, where there is one: read before it was spread over
            processes.
        reload: loads that model again, where the trainer lets it go once it has answered.
    """

    def __init__(
        self,
        trainer: RowTrainer,
        root: Path,
        function: ModelFunction | None,
        reload: Callable[[], Any] | None = None,
    ) -> None:
        self.root = root
        self.known: dict[bytes, PairTokenLogps] = {}
        """Answers by key, of all pairs seen so far."""
        self.computed: set[bytes] = set()
        """Keys of the pairs that no cache had, and that were computed here."""
        self._trainer = trainer
        self._function = function
        self._reload = reload
        self._waiting: list[_Request] = []
        self._policy_is_wrapped = False
        self._store: ReferenceStore | None = None

    @property
    def store(self) -> ReferenceStore:
        """The folder of this reference; first asked for while the policy still is the reference."""
        if self._store is None:
            trainer = self._trainer
            model: Any = trainer.ref_model or unwrapped_policy(trainer)
            if self._function is None:
                with reference_adapter(trainer):
                    self._function = model_function(model)
            identity = agreed_identity(
                weights=self._function.digest,
                processing_class=trainer.processing_class,
                dtype=model.dtype,
                mixed_precision=trainer.accelerator.mixed_precision,
                spread=_uses_fsdp(trainer),
            )
            name = str(model.config.name_or_path or "") or type(model).__name__
            # a folder's last part is enough: where it lay on one machine is no news to a reader
            name = Path(name).name if name.startswith(("/", ".")) else name
            unreadable = self._function.unreadable
            if unreadable:
                logger.warning(
                    f"reference cache: {'; '.join(unreadable[:3])}. What that does to the "
                    "reference no digest can tell, so its log-probs are computed in this run, and "
                    "neither taken from the cache nor kept in it"
                )
            self._store = ReferenceStore(self.root, identity, name, keeps=not unreadable)
            if not unreadable and (earlier := self._store.earlier_format()):
                logger.warning(earlier)
        return self._store

    @property
    def digest(self) -> str | None:
        """Of the reference, where it has been asked for; None where the cache is not used."""
        return self._store.folder.name if self._store and self._store.keeps else None

    def add(self, dataset: Dataset, name: str, batch_size: int) -> None:
        """Know the reference's answer to every pair of a data set.

        Where FSDP or DeepSpeed will spread the policy, what is missing waits for `complete`.

        Args:
            dataset: tokenized pairs.
            name: of the data set, for the progress bar and errors.
            batch_size: pairs for each process at a time.

        Raises:
            TrainingError: a stream; or pairs are missing, and the policy is its reference no more.
        """
        if not isinstance(dataset, Dataset):
            raise TrainingError(
                f"{name}: precompute_ref_log_probs needs a data set with a length, not a stream; "
                "set it to false"
            )
        self._add(_Request(dataset, name, batch_size))

    def complete(self) -> None:
        """Compute what waited, now that the policy is wrapped for training.

        Raises:
            TrainingError: training goes on from a checkpoint, so the policy is not the reference.
        """
        self._policy_is_wrapped = True
        while self._waiting:
            self._add(self._waiting.pop())

    def build(self) -> None:
        """Compute what waited, for a trainer that will not train."""
        trainer: Any = self._trainer
        if not self._waiting:
            return
        if trainer.is_deepspeed_enabled:
            trainer.model_wrapped = prepare_deepspeed(trainer.model, trainer.accelerator)
        else:  # FSDP: accelerate shards no model without an optimizer; this one has no state
            unused = torch.optim.SGD(trainer.model.parameters())
            trainer.model, _ = trainer.accelerator.prepare(trainer.model, unused)
            trainer.model_wrapped = trainer.model
        trainer.settle_layout(trainer.model_wrapped)
        self.complete()

    def differences(self, dataset: Dataset, count: int, batch_size: int) -> list[Difference]:
        """Ask the reference again about some pairs that the cache had before this run.

        Args:
            dataset: tokenized pairs that were added.
            count: pairs to ask about, at even distances.
            batch_size: pairs for each process at a time.

        Raises:
            TrainingError: the reference cannot be asked again.
        """
        if why := self._why_not_asked():
            raise TrainingError(f"{why}: verify in one process, without a launcher")
        keys = self._pairs(dataset).keys
        known = [row for row, key in enumerate(keys) if key not in self.computed]
        rows = known[:: max(1, len(known) // count)][:count]
        again = self._answers(_Request(dataset, "pairs to verify", batch_size), rows)
        return [
            Difference(
                pair=str(dataset[row].get("id", row)),
                nats=float(abs(new.sum(dtype=np.float64) - old.sum(dtype=np.float64))),
                tokens=len(old),
            )
            for row, answer in zip(rows, again, strict=True)
            for new, old in zip(answer, self.known[keys[row]], strict=True)
        ]

    def collate(self, inner: Any) -> CollateWithReference:
        """A collator whose batches carry what is known here."""
        return CollateWithReference(inner, self.known, self._trainer.ld_alpha)

    def _add(self, request: _Request) -> None:
        trainer = self._trainer
        with torch.random.fork_rng(devices=[]):  # loaders draw seeds; a full cache changes nothing
            pairs = self._pairs(request.dataset)
            missing = self._missing(pairs)
            if not missing:
                return
            if why := self._why_not_asked():
                raise TrainingError(
                    f"{request.name}: the reference cache {self.store.folder} lacks {len(missing)} "
                    f"of {len(set(pairs.keys))} pairs, and {why}. Run clair-apo reference build "
                    "with these pairs, pass them as eval_dataset when the trainer is made, or "
                    "give the reference a model of its own (ref_model, or reference: PATH in one "
                    "process)"
                )
            if self._asks_policy and is_spread(trainer) and not self._policy_is_wrapped:
                self._waiting.append(request)
                return
            self._compute(request, pairs.keys, missing)

    @property
    def _asks_policy(self) -> bool:
        return self._trainer.ref_model is None and self._reload is None

    def _why_not_asked(self) -> str | None:
        trainer = self._trainer
        if self._asks_policy:
            moved = why_policy_moved(trainer) if trainer.state.global_step > 0 else None
            return moved and f"{moved}, so it cannot be asked"
        if trainer.ref_model is None and is_spread(trainer):
            return "the reference was let go, and FSDP and DeepSpeed load none again"
        return None

    def _pairs(self, dataset: Dataset) -> KnownPairs:
        collate = self._trainer.collate_as_in_training
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
        accelerator = self._trainer.accelerator
        anywhere = accelerator.reduce(unknown.to(accelerator.device, torch.int32), "sum")
        missing = rows[anywhere.cpu().numpy() > 0].tolist()
        return sorted(missing, key=lambda row: -pairs.tokens[row])

    def _compute(self, request: _Request, keys: list[bytes], rows: list[int]) -> None:
        fresh: dict[bytes, PairTokenLogps] = {}
        flushed_at = time.monotonic()
        keeps = self._trainer.accelerator.is_local_main_process
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

    def _answers(self, request: _Request, rows: list[int]) -> Iterator[PairTokenLogps]:
        """The reference's answers to some rows of a data set, in their order, on every process."""
        trainer, accelerator = self._trainer, self._trainer.accelerator
        loader = accelerator.prepare(
            DataLoader(
                request.dataset.select(rows),
                batch_size=request.batch_size,
                collate_fn=self._trainer.collate_as_in_training,
            )
        )
        work = Work(
            request.dataset, "precompute_ref_batch_size", request.batch_size, "a reference batch"
        )
        model = self._reference()
        was_training = model.training
        model.eval()
        try:
            for batch in tqdm(loader, desc=f"reference log-probs of {request.name}", leave=False):
                with named_memory_failure(trainer, batch, work):
                    sides = reference_tokens(trainer, batch, model)
                yield from map(PairTokenLogps, *(self._gathered(side) for side in sides))
        finally:
            model.train(was_training)

    def _reference(self) -> Any:
        """Who is asked: the policy, or the reference model, loaded again where it was let go."""
        trainer = self._trainer
        if trainer.ref_model is not None:
            return trainer.ref_model
        if self._reload is None:
            return trainer.model_wrapped
        model = self._reload()
        add_fused_lm_head(model)
        return model.to(trainer.accelerator.device)

    def _gathered(self, side: TokenLogps) -> list[NDArray[np.floating]]:
        """One answer for every pair of all processes, in the order of the data set."""
        accelerator = self._trainer.accelerator
        rows = accelerator.pad_across_processes(padded(side.values, side.lengths), dim=1)
        # for metrics: without the pairs that fill the last batch of several processes
        rows, lengths = accelerator.gather_for_metrics((rows, side.lengths))
        return [
            row[:length].copy()
            for row, length in zip(rows.cpu().numpy(), lengths.tolist(), strict=True)
        ]


def is_spread(trainer: RowTrainer) -> bool:
    """Whether FSDP or DeepSpeed will spread the policy over processes, or has."""
    return _uses_fsdp(trainer) or bool(trainer.is_deepspeed_enabled)


def _uses_fsdp(trainer: RowTrainer) -> bool:
    return uses_fsdp(trainer.accelerator)


class ReferenceTrainer(RowTrainer):
    """Takes the reference from a cache where the data has a length."""

    reference_cache: ReferenceCache

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Know the reference of every pair; batches look it up, the data set stays as it is."""
        check_head(self.model)
        self.settle_layout(None if is_spread(self) else self.model)
        self.reference_cache.add(dataset, name, batch_size)
        return dataset

    def evaluate(
        self,
        eval_dataset: Dataset | IterableDataset | Mapping[str, Any] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As TRL's, but new data can be evaluated after training where the cache knows it."""
        if not self.precompute_ref_logps or isinstance(eval_dataset, str | None):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if isinstance(eval_dataset, Mapping):
            metrics: dict[str, float] = {}
            for name, part in eval_dataset.items():
                metrics |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        args, tokenizer = self.args, cast(Any, self.processing_class)
        ready = self._prepare_dataset(eval_dataset, tokenizer, args, "eval")
        size = args.precompute_ref_batch_size or args.per_device_eval_batch_size
        ready = self._precompute_ref_logps(ready, "eval", size)
        return Trainer.evaluate(self, ready, ignore_keys, metric_key_prefix)


class AskPolicyAtStart(TrainerCallback):
    """When training begins, the policy is asked as its own reference, or found to be none.

    Under FSDP and DeepSpeed it answers what no cache had, now that it has been spread.

    Args:
        trainer: an `APOTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, *event: Any, **more: Any) -> None:
        """Settle the layout; compute what no cache had, or see that the policy stays its reference.

        Raises:
            TrainingError: it would not.
        """
        trainer = self._trainer
        trainer.settle_layout(trainer.model_wrapped)
        if trainer.precompute_ref_logps:
            trainer.reference_cache.complete()
        elif trainer.ref_model is None and (why := why_policy_moved(trainer)):
            raise TrainingError(
                f"{why}, so without the adapter the policy is not its reference: freeze them, set "
                "precompute_ref_log_probs, or pass ref_model"
            )
