"""Keeps what the forwards said of their pairs, over all processes, until it is logged."""

from typing import Any, Literal

from torch import Tensor

from clair_apo.apo.anchors import PairOutcomes

Mode = Literal["train", "eval"]


class OutcomeLog:
    """The outcomes of pairs since they were taken last, for training and evaluation apart.

    Args:
        accelerator: gathers them from all processes.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self._tables: dict[Mode, list[Tensor]] = {"train": [], "eval": []}

    def keep(self, mode: Mode, outcomes: PairOutcomes) -> PairOutcomes:
        """Keep the outcomes of all processes, and return them.

        Args:
            mode: in an evaluation the pairs that fill the last batch of several processes are left
                out.
            outcomes: of this process's batch.
        """
        gather = (
            self._accelerator.gather_for_metrics if mode == "eval" else self._accelerator.gather
        )
        table = gather(outcomes.table())
        self._tables[mode].append(table)
        return PairOutcomes.from_tables([table])

    def take(self, mode: Mode) -> PairOutcomes | None:
        """All that was kept since the last time; None where there is none."""
        tables, self._tables[mode] = self._tables[mode], []
        return PairOutcomes.from_tables(tables) if tables else None
