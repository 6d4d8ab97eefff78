import pytest
from trl.trainer.dpo_trainer import DataCollatorForPreference

from clair_apo.apo.forward.tree import pair_trees
from clair_apo.apo.lengths import cut_pair, pair_lengths, spread


def row(prompt, chosen, rejected):
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


ROWS = [
    row([1, 2, 3], [7, 8, 9], [7, 8, 5, 6]),
    row([1], [4], [5]),
    row([1, 2], [3, 4], [3, 4, 5, 6, 7, 8, 9]),
    row([1, 2, 3, 4], [9, 9, 9, 9, 9], [8]),
]
CUTS = [(None, "keep_start"), (5, "keep_start"), (5, "keep_end"), (3, "keep_end")]


@pytest.mark.parametrize(("max_length", "mode"), CUTS)
def test_a_pair_is_cut_as_trls_collator_cuts_it_and_counted_as_our_trees_count_it(max_length, mode):
    collate = DataCollatorForPreference(pad_token_id=0, max_length=max_length, truncation_mode=mode)
    batch = collate(ROWS)
    kept = batch["attention_mask"].bool()
    theirs = [ids[seen].tolist() for ids, seen in zip(batch["input_ids"], kept, strict=True)]
    cut = [cut_pair(one, max_length, mode) for one in ROWS]
    assert [pair.chosen for pair in cut] == theirs[: len(ROWS)]
    assert [pair.rejected for pair in cut] == theirs[len(ROWS) :]
    assert [pair.tree_tokens for pair in cut] == [tree.size for tree in pair_trees(batch)]
    taken = sum(pair.cut_chosen + pair.cut_rejected for pair in cut)
    whole = sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"] + r["rejected_ids"]) for r in ROWS)
    assert taken == whole - int(kept.sum())


def test_lengths_say_what_truncation_takes_and_what_sharing_saves():
    found = pair_lengths(ROWS, 6, "keep_start")
    assert found.pairs == 4
    assert (found.prompt.minimum, found.prompt.maximum) == (1, 4)
    assert found.chosen.mean == pytest.approx((3 + 1 + 2 + 5) / 4)
    assert (found.truncated_chosen, found.truncated_rejected) == (1, 2)
    assert found.cut_tokens == 3 + (1 + 3)
    separate = (6 + 6) + (2 + 2) + (4 + 6) + (6 + 5)
    assert found.separate_tokens == separate
    # what both begin with, without its last token, once; and no last tokens
    trees = (12 - 4 - 2) + (4 - 0 - 2) + (10 - 3 - 2) + (11 - 3 - 2)
    assert found.tree_tokens == trees
    assert found.saved_share == pytest.approx(1 - trees / separate)
    assert found.longest_tree == 6


def test_a_spread_is_made_of_values_that_occur():
    found = spread([*range(1, 101)])
    assert (found.minimum, found.median, found.q95, found.maximum) == (1, 50, 95, 100)
    assert found.mean == 50.5
    assert spread([7]).q95 == 7
    assert spread([3, 1]).median in (1, 3)
