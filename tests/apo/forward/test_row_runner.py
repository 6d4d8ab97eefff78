"""Rows and layout of a run, each by itself: no trainer is made."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from clair_apo.apo.forward import layout as layout_module
from clair_apo.apo.forward import row_runner
from clair_apo.apo.forward.attention import PER_BRANCH
from clair_apo.apo.forward.batching import GIVEN_WEIGHTS, ROWS, WEIGHTS, count_tokens, cut
from clair_apo.apo.forward.layout import PairLayout
from clair_apo.apo.forward.layout_measure import own_logps
from clair_apo.apo.forward.row_runner import RowRunner
from clair_apo.apo.trl_compat import add_fused_lm_head
from clair_apo.errors import ConfigError
from tests.helpers.tiny_apo import make_model
from tests.helpers.tiny_pairs import edge_pairs, padded_batch, sharp_model

PADDED = SimpleNamespace(is_padded=True, way="padded", reads_whole_batches=False)
TREES = SimpleNamespace(is_padded=False, way=PER_BRANCH, reads_whole_batches=False)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def policy():
    model = make_model()
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    return model


def batch_of(count):
    """Pairs of 5 prompt tokens and answers of 3, all different."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(6, 80, (count, 5), generator=generator)
    answers = torch.randint(6, 80, (2 * count, 3), generator=generator)
    return {
        "input_ids": torch.cat([prompts.repeat(2, 1), answers], 1),
        "attention_mask": torch.ones(2 * count, 8, dtype=torch.long),
        "completion_mask": (torch.arange(8) >= 5).long().repeat(2 * count, 1),
        ROWS: torch.arange(count),
    }


@pytest.mark.parametrize("layout", [PADDED, TREES], ids=["padded", "trees"])
def test_a_batch_says_the_same_whole_and_cut_into_rows(layout, accelerator, policy):
    batch = batch_of(4)
    whole = RowRunner(accelerator, layout, None).forward(policy, batch)
    cut = RowRunner(accelerator, layout, 20)
    assert len(cut.rows(batch).own) > 1
    found = cut.forward(policy, batch)
    torch.testing.assert_close(found.chosen.values, whole.chosen.values)
    torch.testing.assert_close(found.rejected.values, whole.rejected.values)
    assert found.chosen_tokens.tolist() == [3, 3, 3, 3]


def test_a_step_runs_each_row_once_and_gradients_wait_for_the_last(accelerator, policy):
    runner = RowRunner(accelerator, PADDED, 16)  # a pair of 2 x 8 tokens in each row
    batch = batch_of(3)
    weighed = runner.weigh([batch], None, torch.device("cpu"))
    assert weighed == 3 and batch[WEIGHTS].tolist() == [1, 1, 1]
    held, seen = [], []

    class Watched:
        def __getattr__(self, name):
            return getattr(accelerator, name)

        def no_sync(self, model):
            held.append(len(seen))
            return accelerator.no_sync(model)

    runner = RowRunner(Watched(), PADDED, 16)

    def run_row(model, row, pairs):
        seen.append(row[ROWS].tolist())
        return torch.tensor(1.0) * pairs

    total = runner.step(policy, batch, 3, run_row)
    assert seen == [[0], [1], [2]]
    assert held == [0, 1], "not for the last"
    assert total == 9


def test_rows_add_up_to_the_mean_over_the_pairs_of_a_step(accelerator):
    runner = RowRunner(accelerator, PADDED, None)
    losses = torch.tensor([1.0, 2.0, 6.0])
    parts = [runner.mean_over_step(part, {}, 3) for part in losses.split(1)]
    assert sum(parts) == runner.mean_over_step(losses, {}, None) == 3
    weights = {WEIGHTS: torch.tensor([1.0, 1.0, 0.0])}
    assert runner.mean_over_step(losses, weights, 2) == 1.5


def test_weights_of_the_data_make_a_weighted_mean_in_which_repeats_count_nothing(accelerator):
    runner = RowRunner(accelerator, PADDED, None)
    losses, given = torch.tensor([1.0, 2.0, 6.0, 5.0]), torch.tensor([0.5, 0.0, 2.0, 1.0])
    batch = batch_of(4) | {GIVEN_WEIGHTS: given}
    total = runner.weigh([batch], None, torch.device("cpu"))
    assert total == 3.5 and batch[WEIGHTS].tolist() == [1, 1, 1, 1]
    assert runner.mean_over_step(losses, batch, total) == pytest.approx((0.5 + 12 + 5) / 3.5)
    assert runner.mean_over_step(losses, {GIVEN_WEIGHTS: given}, None) == pytest.approx(17.5 / 3.5)
    repeated = batch | {WEIGHTS: torch.tensor([1.0, 1.0, 1.0, 0.0])}
    assert runner.mean_over_step(losses, repeated, 2.5) == pytest.approx((0.5 + 12) / 2.5)


def test_a_step_whose_pairs_all_weigh_nothing_has_a_loss_of_zero(accelerator):
    runner = RowRunner(accelerator, PADDED, None)
    batch = batch_of(2) | {GIVEN_WEIGHTS: torch.zeros(2)}
    total = runner.weigh([batch], None, torch.device("cpu"))
    count_tokens([batch], total, accelerator, torch.device("cpu"))
    assert batch["tokens_per_chosen"].min() > 0, "something divides by it"
    assert runner.mean_over_step(torch.tensor([3.0, 4.0]), batch, total) == 0
    assert runner.mean_over_step(torch.tensor([3.0, 4.0]), batch, None) == 0


def test_tokens_of_chosen_answers_count_by_the_weight_of_their_pair(accelerator):
    batch = batch_of(2)
    batch["completion_mask"][0, 5] = 0  # a chosen answer of 2 tokens beside one of 3
    batch |= {WEIGHTS: torch.ones(2), GIVEN_WEIGHTS: torch.tensor([3.0, 1.0])}
    count_tokens([batch], torch.tensor(4.0), accelerator, torch.device("cpu"))
    assert batch["tokens_per_chosen"].tolist() == [pytest.approx((3 * 2 + 1 * 3) / 4)] * 2


def test_every_batch_of_a_step_is_told_the_mean_length_of_all_chosen_answers(accelerator):
    one, other = batch_of(2), batch_of(1)
    other["completion_mask"][0, 5] = 0  # a chosen answer of 2 tokens
    for batch in (one, other):
        batch[WEIGHTS] = torch.ones(len(batch[ROWS]))
    count_tokens([one, other], torch.tensor(3.0), accelerator, torch.device("cpu"))
    assert one["tokens_per_chosen"].tolist() == [pytest.approx(8 / 3)] * 2
    assert other["tokens_per_chosen"].tolist() == [pytest.approx(8 / 3)]


def test_an_overridden_loss_takes_padded_batches_and_is_refused_by_name(config, accelerator):
    assert PairLayout(config(), make_model(), accelerator, own_loss=True).is_padded
    with pytest.raises(ConfigError, match="pair_layout shared_prefix: _compute_loss is overridden"):
        named = config(pair_layout="shared_prefix")
        PairLayout(named, make_model(), accelerator, own_loss=True)


def test_a_layout_is_given_up_where_one_model_is_not_exact(config, monkeypatch):
    args = config()  # before the accelerator, whose state it resets
    layout = PairLayout(args, make_model(), Accelerator(cpu=True))
    assert layout.name == "shared_prefix"
    exact, other = make_model(), make_model(1)
    compared = []

    def compare(model, batches, device, way, **more):
        compared.append(model)
        fault = "differs by 3 nats" if model is other and way == PER_BRANCH else None
        return layout_module.Agreement(way=way, fault=fault)

    monkeypatch.setattr(layout_module, "compare_layouts", compare)
    layout.settle(exact, {"": exact}, batch_of)
    layout.settle(exact, {"": exact}, batch_of)
    assert compared == [exact], "each model once"
    assert layout.name == "shared_prefix"
    layout.settle(exact, {"": exact, "the reference: ": other}, batch_of)
    assert layout.name == "padded"


# --- rows of like length


def edge_batch():
    pairs = edge_pairs()
    return padded_batch(pairs) | {ROWS: torch.arange(len(pairs))}


def lengths_of(batch):
    return (2 * torch.maximum(*batch["attention_mask"].sum(1).chunk(2))).tolist()


def test_padded_rows_hold_pairs_of_like_length_and_each_once(accelerator):
    batch = edge_batch()
    rows = RowRunner(accelerator, PADDED, 160).rows(batch).own
    sizes = lengths_of(batch)
    assert sorted(pair for row in rows for pair in row) == list(range(9))
    assert len(rows) > 2
    ordered = [sorted(sizes[pair] for pair in row) for row in rows]
    assert all(one[-1] <= other[0] for one, other in itertools.pairwise(ordered))
    assert all(len(row) * row[-1] <= 160 for row in ordered if len(row) > 1)

    def positions(cutting):
        return sum(len(row) * max(sizes[pair] for pair in row) for row in cutting)

    in_order = cut(sizes, 160, padded=True)
    assert positions(rows) < positions(in_order)
    assert len(rows) <= len(in_order)


def test_trees_have_no_padding_and_keep_their_order(accelerator):
    rows = RowRunner(accelerator, TREES, 80).rows(edge_batch()).own
    assert [pair for row in rows for pair in row] == list(range(9))


def test_what_sorted_rows_say_comes_back_in_the_order_of_the_batch(accelerator):
    model = sharp_model("llama", torch.float32)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    batch = edge_batch()
    whole = RowRunner(accelerator, PADDED, None).forward(model, batch)
    found = RowRunner(accelerator, PADDED, 80).forward(model, batch)
    torch.testing.assert_close(found.logps, whole.logps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.entropy_sums, whole.entropy_sums, atol=1e-3, rtol=1e-3)
    for name in ("first_differences", "sequence_tokens", "top1_tokens", "chosen_tokens"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert found.positions.sum() < whole.positions.sum()


def loss_and_gradient(accelerator, limit):
    """Of a step in float64, from the model's own logits: TRL's head would round."""
    model, batch = sharp_model("gpt_neox"), edge_batch()
    runner = RowRunner(accelerator, PADDED, limit)
    runner.weigh([batch], None, torch.device("cpu"))

    def run_row(model, row, pairs):
        sizes = row["completion_mask"][:, 1:].sum(1).tolist()
        chosen, rejected = torch.stack([x.sum() for x in own_logps(model, row).split(sizes)]).chunk(
            2
        )
        losses = torch.nn.functional.softplus((rejected - chosen) / 10) * (1 + row[ROWS])
        loss = runner.mean_over_step(losses, row, pairs)
        loss.backward()
        return loss.detach()

    loss = runner.step(model, batch, 9, run_row)
    return loss, torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_the_loss_of_a_step_is_the_same_from_sorted_rows_as_from_unsorted_ones(
    accelerator, monkeypatch
):
    batch = loss_and_gradient(accelerator, None)
    in_like_rows = loss_and_gradient(accelerator, 80)
    monkeypatch.setattr(
        row_runner, "alike_rows", lambda sizes, limit, cost: list(cut(sizes, limit, padded=True))
    )
    in_order = loss_and_gradient(accelerator, 80)
    for other in (in_like_rows, in_order):
        torch.testing.assert_close(other, batch, atol=1e-12, rtol=1e-12)
