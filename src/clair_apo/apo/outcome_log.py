"""Keeps what the forwards said of their pairs, over all processes, until it is logged."""

from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TrainerCallback

from clair_apo.apo.forward.batching import fills_a_stream, given_by_stream
from clair_apo.apo.metrics import PairOutcomes

Mode = Literal["train", "eval"]


class OutcomeLog(TrainerCallback):
    """The outcomes of pairs since they were taken last, for training and evaluation apart.

    Args:
        accelerator: gathers them from all processes.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self._tables: dict[Mode, list[Tensor]] = {"train": [], "eval": []}
        self._fresh: list[Tensor] = []
        """Of training, by this process alone."""

    def on_train_begin(self, *event: Any, **more: Any) -> None:
        """Forget what a run that broke off left; `auto_find_batch_size` begins several times."""
        self._tables["train"].clear()
        self._fresh.clear()

    def keep(self, mode: Mode, outcomes: PairOutcomes, weights: Tensor | None) -> None:
        """Keep the outcomes of the pairs that count.

        Args:
            mode: in an evaluation the pairs that fill the last batch of several processes are left
                out here, and all processes must call it.
            outcomes: of one row of this process; in training they are seen once gathered.
            weights: of its pairs in training, (B,): those with 0 are left out; None keeps all.
        """
        table = outcomes.table()
        if mode == "eval":
            table = self._accelerator.gather_for_metrics(table)
            if fills_a_stream(self._accelerator.gradient_state.active_dataloader):
                table = table[given_by_stream(PairOutcomes.from_tables([table]).rows)]
            self._tables["eval"].append(table)
        else:
            self._fresh.append(table if weights is None else table[weights > 0])

    def gather(self) -> None:
        """Share what was kept in training since; all processes must call, after the same batch."""
        if not self._fresh:
            return
        table = torch.cat(self._fresh)
        self._fresh.clear()
        # processes may have seen different numbers of pairs: fill up, leave out what fills
        table = self._accelerator.pad_across_processes(table, pad_index=torch.nan)
        table = self._accelerator.gather(table)
        self._tables["train"].append(table[~table.isnan().all(1)])

    def seen(self, mode: Mode) -> PairOutcomes | None:
        """All that was gathered since it was taken last; None if there is nothing."""
        tables = self._tables[mode]
        return PairOutcomes.from_tables([torch.cat(tables)]) if tables else None

    def take(self, mode: Mode) -> PairOutcomes | None:
        """The same, and begin anew."""
        found = self.seen(mode)
        self._tables[mode].clear()
        return found
