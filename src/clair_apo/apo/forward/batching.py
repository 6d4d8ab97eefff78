"""Pairs that accelerate repeats: the last batch of several processes is filled from the first.

They must count neither in the loss nor in the metrics. B is the number of pairs of one process.
"""

# mypy: allow-untyped-calls
# accelerate is typed in part only

from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard, IterableDatasetShard
from torch import Tensor


def pair_weights(rows: Tensor, accelerator: Any, loader: Any, *, last: bool) -> Tensor:
    """The weight of each pair of a training batch, (B,): 0 for those that only fill up, else 1.

    Args:
        rows: each pair's place in the data, (B,). For a stream all processes must call.
        accelerator: knows the processes.
        loader: the batches of a whole epoch, whether or not a resumed run skips some.
        last: whether this is the last batch of the epoch.
    """
    if accelerator.num_processes == 1:
        return torch.ones(len(rows), device=rows.device)
    first = accelerator.process_index * len(rows)
    if fills_a_stream(loader):
        given = given_by_stream(accelerator.gather(rows))
        return given[first : first + len(rows)].float()
    weights = torch.ones(len(rows), device=rows.device)
    beyond = _beyond_full_batches(loader)
    if last and beyond:
        weights[max(beyond - first, 0) :] = 0
    return weights


def _beyond_full_batches(loader: Any) -> int:
    """Pairs of data with a length that the last batch of all processes holds; 0 where it is full.

    accelerate counts them too, but not in the epoch in which a run is resumed.
    """
    sampler = loader.batch_sampler
    if not isinstance(sampler, BatchSamplerShard) or sampler.drop_last or not sampler.even_batches:
        return 0
    if sampler.batch_size is None:
        return 0
    together = 1 if sampler.split_batches else sampler.num_processes
    beyond: int = len(loader.dataset) % (sampler.batch_size * together)
    return beyond


def fills_a_stream(loader: Any) -> bool:
    """Whether a loader deals one stream out to all processes, and fills its last batch.

    A stream with a part for every process is read in parts, and not filled.
    """
    return isinstance(getattr(loader, "dataset", None), IterableDatasetShard)


def given_by_stream(rows: Tensor) -> Tensor:
    """Which pairs of one batch of all processes a stream gave, as booleans; the rest fills it up.

    A stream's pairs are numbered as they come, and what fills up begins again with the first.

    Args:
        rows: the numbers, in the order of the processes; -1 where there is none, which counts.
    """
    return (rows < 0) | (rows == rows[0] + torch.arange(len(rows), device=rows.device))
