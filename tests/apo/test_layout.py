"""Pairs as trees, in numbers that can be counted by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_pairs import Pair, edge_pairs, padded_batch

from clair_apo.apo.layout import IGNORED, cut, packed_row, pair_trees, take_pairs, tree_sizes

_ = IGNORED
# prompt 10 11, both answers begin with 20, then differ
PAIR = Pair([10, 11], [20, 30, 31], [20, 40])


def test_a_tree_has_the_shared_beginning_once_and_its_last_token_in_both_branches():
    (tree,) = pair_trees(padded_batch([PAIR]))
    # trunk 10 11 | chosen 20 30 | rejected 20; the last tokens, 31 and 40, predict nothing
    assert tree.lengths == (2, 2, 1)
    assert tree.ids.tolist() == [10, 11, 20, 30, 20]
    assert tree.positions.tolist() == [0, 1, 2, 3, 2]
    assert tree.labels.tolist() == [_, 20, 30, 31, 40]
    assert tree.in_chosen.tolist() == [False, True, True, True, False]
    assert tree.in_rejected.tolist() == [False, True, False, False, True]


def test_a_row_holds_pairs_end_to_end_and_knows_whose_each_label_is():
    row = packed_row(pair_trees(padded_batch([PAIR, Pair([10], [50], [60, 61])])))
    assert row.ids.tolist() == [[10, 11, 20, 30, 20, 10, 10, 60]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 2, 0, 0, 1]]
    assert row.labels.tolist() == [[_, 20, 30, 31, 40, 50, 60, 61]]
    assert row.lengths.tolist() == [[[[2, 2, 1], [0, 1, 2]]]]
    labels = row.labels[row.labels != _]
    assert labels[row.chosen].tolist() == [20, 30, 31, 50]
    assert labels[row.rejected].tolist() == [20, 40, 60, 61]
    assert row.chosen_lengths.tolist() == [3, 1]
    assert row.rejected_lengths.tolist() == [2, 2]
    assert row.first_differences.tolist() == [1, 0]


@pytest.mark.parametrize("pair", edge_pairs())
def test_every_answer_token_is_a_label_once_for_its_side(pair):
    (tree,) = pair_trees(padded_batch([pair]))
    row = packed_row([tree])
    labels = row.labels[row.labels != _]
    assert labels[row.chosen].tolist() == pair.chosen
    assert labels[row.rejected].tolist() == pair.rejected
    assert sum(tree.lengths) == len(tree.ids) == row.ids.shape[1]


def test_sizes_are_those_of_the_trees():
    batch = padded_batch([PAIR, *edge_pairs(), Pair([10], [50] * 9, [60])])
    assert tree_sizes(batch) == [tree.size for tree in pair_trees(batch)]


def test_padding_on_the_left_gives_the_same_tree():
    batch = padded_batch([PAIR, Pair([10], [50] * 9, [60])])
    flipped = {}
    for key, rows in batch.items():
        lengths = batch["attention_mask"].sum(1)
        flipped[key] = torch.stack([r.roll(-int(n)) for r, n in zip(rows, lengths, strict=True)])
    for mine, other in zip(pair_trees(flipped), pair_trees(batch), strict=True):
        assert torch.equal(mine.ids, other.ids)
        assert torch.equal(mine.labels, other.labels)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 120))
def test_a_cut_keeps_order_fits_where_it_can_and_needs_the_fewest_runs(sizes, limit):
    runs = cut(sizes, limit)
    assert [position for run in runs for position in run] == list(range(len(sizes)))
    tokens = [sum(sizes[position] for position in run) for run in runs]
    assert all(n <= limit or len(run) == 1 for n, run in zip(tokens, runs, strict=True))
    fewest, held = 1, 0
    for size in sizes:  # filling each run to its limit needs the fewest
        if held and held + size > limit:
            fewest, held = fewest + 1, 0
        held += size
    assert len(runs) == fewest


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 120))
def test_a_cut_of_padded_items_counts_the_padding(sizes, limit):
    runs = cut(sizes, limit, padded=True)
    assert [position for run in runs for position in run] == list(range(len(sizes)))
    tokens = [len(run) * max(sizes[position] for position in run) for run in runs]
    assert all(n <= limit or len(run) == 1 for n, run in zip(tokens, runs, strict=True))
    fewest, held = 1, []
    for size in sizes:  # filling each run to its limit needs the fewest
        held.append(size)
        if len(held) > 1 and len(held) * max(held) > limit:
            fewest, held = fewest + 1, [size]
    assert len(runs) == fewest


def test_a_cut_is_even():
    assert cut([10] * 6, 50) == [range(0, 3), range(3, 6)], "and not 5 and 1"
    assert cut([10] * 6, None) == [range(0, 6)]
    assert cut([10] * 6, 50, padded=True) == [range(0, 3), range(3, 6)]
    assert cut([99, 10], 50) == [range(0, 1), range(1, 2)], "an item over the limit runs alone"


def test_taken_pairs_bring_both_rows_and_everything_that_belongs_to_them():
    pairs = edge_pairs()
    batch = padded_batch(pairs) | {
        "ref_chosen_logps": torch.arange(9.0),
        "ref_chosen_token_logps": torch.arange(18.0),  # two for each pair
        "ref_chosen_lengths": torch.full((9,), 2),
    }
    taken = take_pairs(batch, [2, 4])
    wanted = padded_batch([pairs[2], pairs[4]])
    for key, rows in wanted.items():
        assert torch.equal(taken[key], rows), key
    assert taken["ref_chosen_logps"].tolist() == [2, 4]
    assert taken["ref_chosen_token_logps"].tolist() == [4, 5, 8, 9]
    assert taken["ref_chosen_lengths"].tolist() == [2, 2]
