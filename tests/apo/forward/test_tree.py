"""Pairs as trees, in numbers that can be counted by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.apo.forward.batching import IMAGES, cut, take_pairs, uncut_reason
from clair_apo.apo.forward.tree import IGNORED, packed_row, pair_trees, tree_sizes
from clair_apo.errors import TrainingError
from tests.helpers.tiny_pairs import Pair, edge_pairs, padded_batch

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


# --- columns that are not of tokens


def patches(numbers):
    """Patches that each hold their number."""
    return torch.tensor(numbers, dtype=torch.float)[:, None].repeat(1, 8)


def seeing_batch(images, grids):
    """Three pairs with so many images; the grids of all images of the winners, then again."""
    batch = padded_batch(edge_pairs()[:3])
    batch["mm_token_type_ids"] = torch.ones_like(batch["input_ids"])
    batch["image_grid_thw"] = torch.tensor(grids * 2)
    count = int(batch["image_grid_thw"].prod(1).sum())
    batch["pixel_values"] = patches(range(count))
    return batch | {IMAGES: torch.tensor(images)}


def test_patches_that_lie_end_to_end_go_with_the_pair_whose_images_they_are_of():
    grids = [[1, 2, 2], [1, 2, 4], [1, 4, 4]]  # 4, 8 and 16 patches
    batch = seeing_batch([1, 0, 2], grids)
    taken = take_pairs(batch, [2])
    # the winners' 28 patches, then the losers'; the third pair's begin after the first image's 4
    wanted = [*range(4, 28), *range(32, 56)]
    assert torch.equal(taken["pixel_values"], patches(wanted))
    assert taken["image_grid_thw"].tolist() == [grids[1], grids[2]] * 2
    assert taken[IMAGES].tolist() == [2]
    assert taken["mm_token_type_ids"].shape == taken["input_ids"].shape
    none = take_pairs(batch, [1])
    assert batch.keys() - none.keys() == {"pixel_values", "image_grid_thw"}


def test_images_by_rows_and_one_after_the_other_are_told_apart_by_how_many_there_are():
    batch = padded_batch(edge_pairs()[:3]) | {IMAGES: torch.tensor([2, 1, 1])}
    by_row = torch.arange(6.0)[:, None, None, None, None].repeat(1, 2, 3, 4, 4)
    one_by_one = torch.arange(8.0)[:, None, None, None].repeat(1, 3, 4, 4)
    taken = take_pairs(batch | {"pixel_values": by_row, "image_sizes": one_by_one}, [0, 2])
    assert taken["pixel_values"][:, 0, 0, 0, 0].tolist() == [0, 2, 3, 5]
    assert taken["image_sizes"][:, 0, 0, 0].tolist() == [0, 1, 3, 4, 5, 7]


@pytest.mark.parametrize(
    "columns",
    [
        {"pixel_values": patches(range(64)), "image_grid_thw": torch.tensor([[1, 4, 4]] * 4)},
        {"pixel_values": patches(range(4)), IMAGES: torch.tensor([2, 0])},  # by row or by image?
        {"pixel_values": patches(range(5)), IMAGES: torch.tensor([1, 1])},
        {"audio_frames": patches(range(5)), IMAGES: torch.tensor([1, 1])},
        {"weights_of_classes": torch.ones(3)},
        {"words": ["one", "two", "three"]},
    ],
    ids=["no count", "either way", "neither", "unknown", "another length", "a list"],
)
def test_a_column_that_nothing_assigns_to_pairs_is_never_cut_but_taken_whole(columns):
    batch = padded_batch(edge_pairs()[:2]) | columns
    name = next(iter(columns))
    assert uncut_reason(batch) == f"nothing says which part of {name} belongs to which pair"
    with pytest.raises(TrainingError, match=name):
        take_pairs(batch, [0])
    whole = take_pairs(batch, [0, 1])
    assert whole.keys() == batch.keys()
    assert all(whole[key] is batch[key] for key in batch)


def test_columns_of_a_users_own_are_cut_by_rows_or_kept_as_they_are():
    own = {
        "score": torch.arange(3.0),
        "segments": torch.arange(6),
        "names": ["a", "b", "c"],
        "step": 7,
        "rate": torch.tensor(0.5),
    }
    taken = take_pairs(padded_batch(edge_pairs()[:3]) | own, [2])
    assert taken["score"].tolist() == [2.0]
    assert taken["segments"].tolist() == [2, 5]
    assert taken["names"] == ["c"]
    assert taken["step"] == 7
    assert taken["rate"] == 0.5


def test_trees_and_their_sizes_do_not_depend_on_the_side_of_the_padding_or_on_dtypes():
    batch = padded_batch(edge_pairs())
    order = batch["attention_mask"].argsort(dim=1, stable=True)  # the padding first
    left = {key: rows.gather(1, order) for key, rows in batch.items()}
    left["input_ids"] = left["input_ids"].int()
    left["attention_mask"] = left["attention_mask"].bool()
    left["completion_mask"] = left["completion_mask"].float()
    assert not left["attention_mask"][:, 0].all()
    for found, wanted in zip(pair_trees(left), pair_trees(batch), strict=True):
        assert (found.lengths, found.alike) == (wanted.lengths, wanted.alike)
        for name in ("ids", "positions", "labels", "in_chosen", "in_rejected"):
            assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    assert tree_sizes(left) == tree_sizes(batch)
