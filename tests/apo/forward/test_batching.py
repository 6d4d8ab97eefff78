"""Two processes in one: accelerate's own loaders, a batch of each at a time, as they deal them."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch.utils.data import DataLoader

from clair_apo.apo.forward.batching import WEIGHTS, fills_a_stream, given_by_stream, pair_weights
from clair_apo.apo.forward.row_runner import RowRunner
from clair_apo.apo.metrics import OutcomeLog, PairOutcomes
from clair_apo.apo.trainer import APOTrainer
from tests.helpers.tiny_apo import make_model, make_rows

PROCESSES = 2


def loaders(data, size=2, **options):
    """The loader of each process; a batch is a list of row numbers."""
    whole = DataLoader(data, batch_size=size, **({"collate_fn": list} | options))
    return [
        prepare_data_loader(
            whole,
            num_processes=PROCESSES,
            process_index=index,
            put_on_device=False,
            dispatch_batches=False,
        )
        for index in range(PROCESSES)
    ]


def counted(whole, skipped=0):
    """How often each row counts over an epoch whose first batches are skipped, as by a resume."""
    read = [skip_first_batches(loader, skipped) if skipped else loader for loader in whole]
    found = Counter()
    for batches in zip(*read, strict=True):
        rows = [torch.tensor([row_number(row) for row in batch]) for batch in batches]
        for index, loader in enumerate(whole):
            accelerator = SimpleNamespace(
                num_processes=PROCESSES,
                process_index=index,
                gather=lambda _, everyone=rows: torch.cat(everyone),
            )
            weights = pair_weights(
                rows[index], accelerator, loader, last=read[index].end_of_dataloader
            )
            assert set(weights.tolist()) <= {0.0, 1.0}
            found.update(rows[index][weights > 0].tolist())
    return found


def row_number(row):
    return row["row"] if isinstance(row, dict) else row


def stream(pairs, shards=1):
    return Dataset.from_dict({"row": range(pairs)}).to_iterable_dataset(num_shards=shards)


@pytest.mark.parametrize("pairs", range(1, 10))
def test_every_pair_counts_once_whatever_fills_the_last_batch(pairs):
    once = dict.fromkeys(range(pairs), 1)
    assert counted(loaders(list(range(pairs)))) == once
    assert counted(loaders(stream(pairs))) == once


@pytest.mark.parametrize("pairs", [13, 14, 15, 16])
def test_every_pair_counts_once_in_the_epoch_in_which_a_run_is_resumed(pairs):
    for data in (list(range(pairs)), stream(pairs)):
        for skipped in (1, 2):
            expected = dict.fromkeys(range(skipped * 2 * PROCESSES, pairs), 1)
            assert counted(loaders(data), skipped) == expected


def test_nothing_is_taken_for_a_repeat_where_nothing_is_filled():
    whole = loaders(list(range(14)), drop_last=True)
    assert counted(whole) == dict.fromkeys(range(12), 1), "the last two pairs are dropped"
    assert counted(whole, skipped=1) == dict.fromkeys(range(4, 12), 1)
    parts = loaders(stream(8, shards=2))
    assert not any(map(fills_a_stream, parts))
    assert sum(counted(parts).values()) == 8, "each process reads its own shard"


def test_one_process_repeats_nothing():
    alone = SimpleNamespace(num_processes=1, process_index=0)
    assert pair_weights(torch.tensor([5, 0]), alone, None, last=True).tolist() == [1, 1]


def test_rows_without_a_number_count():
    assert given_by_stream(torch.tensor([-1, -1, -1])).tolist() == [True] * 3
    assert given_by_stream(torch.tensor([0, 1, 2, 0, 1, 2])).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("index, expected", [(0, [[1, 1]]), (1, [[1, 0]])])
def test_a_resumed_run_weighs_the_pairs_of_its_last_batch(index, expected, config, tokenizer):
    """Seven pairs, two for each process at a time: the second process repeats one at the end."""
    trainer = APOTrainer(
        model=make_model(),
        args=config(),
        train_dataset=Dataset.from_list(make_rows(7)),
        processing_class=tokenizer,
    )
    loader = loaders(trainer.train_dataset, collate_fn=trainer.data_collator)[index]
    accelerator = SimpleNamespace(
        num_processes=PROCESSES,
        process_index=index,
        gradient_state=loader.gradient_state,
        reduce=lambda count: count,
    )
    steps = iter(skip_first_batches(loader, 1))
    batches = [next(steps)]
    count = RowRunner(accelerator, trainer.layout, None).weigh(batches, loader, "cpu")
    assert [batch[WEIGHTS].tolist() for batch in batches] == expected
    assert count == sum(expected[0])


def outcomes_of(rows):
    return PairOutcomes(*[torch.tensor(rows, dtype=torch.float)] * len(PairOutcomes._fields))


def test_an_evaluation_of_a_stream_leaves_out_what_fills_its_last_batch():
    loader = loaders(stream(6))[0]
    log = OutcomeLog(
        SimpleNamespace(
            gather_for_metrics=lambda _: outcomes_of([4, 5, 0, 1]).table(),
            gradient_state=SimpleNamespace(active_dataloader=loader),
        )
    )
    log.keep("eval", outcomes_of([4, 5]), None)
    assert log.take("eval").rows.tolist() == [4, 5]
