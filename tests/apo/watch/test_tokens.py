"""Single tokens of answers against full logits and real greedy decoding, in both layouts."""

import math
from types import SimpleNamespace

import pytest
import torch

from clair_apo.apo.forward.logps import ReferenceTokens, padded_forward
from clair_apo.apo.forward.shared_prefix import shared_prefix_forward
from clair_apo.apo.metrics import pair_metrics, pair_outcomes
from clair_apo.apo.objectives import Objective
from clair_apo.apo.watch.tokens import (
    AnswerEnds,
    TokenFigures,
    answer_ends,
    end_token_ids,
    token_figures,
)
from tests.helpers.tiny_pairs import Pair, padded_batch, separate_logps, sharp_model, tokens

END, NEWLINE = 1, 5
LLAMA = "llama"


def greedy(model, ids: list[int], most: int) -> list[int]:
    """What real greedy decoding adds, its end token included."""
    found = model.generate(
        torch.tensor([ids]), max_new_tokens=most, do_sample=False, eos_token_id=END, pad_token_id=0
    )
    return found[0, len(ids) :].tolist()


def other(token: int) -> int:
    return 2 + (token - 1) % 90


def watched_pairs(model) -> list[Pair]:
    """Pairs with every kind of end and parting; three chosen answers begin as the model's own."""
    g = torch.Generator().manual_seed(4)
    prompt, shared = tokens(g, 6), tokens(g, 3)
    own = greedy(model, prompt + shared, 6)
    assert END not in own, "the model is to be followed for six tokens"
    turned = other(own[0])
    return [
        # followed for 4 of 6 tokens: the fifth is another, the end token was not to be expected
        Pair(prompt, [*shared, *own[:4], other(own[4]), END], [*shared, turned, END, NEWLINE]),
        # truncated answers: no end token, and all of the model's own tokens
        Pair(prompt, shared + own, [*shared, turned, 7, 8]),
        # the chosen answer begins the rejected one: at the parting it ends
        Pair(prompt, [*shared, END, NEWLINE], [*shared, own[0], END, NEWLINE]),
        # the same, truncated: the chosen answer has no token at the parting
        Pair(prompt, shared, [*shared, own[0], own[1]]),
        # equal answers never part
        Pair(prompt, [*shared, END], [*shared, END]),
        # they part at once, and a newline follows the end
        Pair(tokens(g, 2), [9, 8, END, NEWLINE], [8, END, NEWLINE]),
    ]


@pytest.fixture(scope="module")
def model():
    return sharp_model(LLAMA)


@pytest.fixture(scope="module")
def reference():
    return sharp_model(LLAMA, seed=1)


def shared(model, batch):
    return shared_prefix_forward(model, batch, statistics=True)


def with_padding(model, batch):
    from trl.trainer.utils import add_fused_lm_head  # what DPOTrainer does to its model

    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    try:
        return padded_forward(model, batch)
    finally:
        del model.forward


def figures(forward, model, reference, pairs) -> TokenFigures:
    batch = padded_batch(pairs)
    with torch.no_grad():
        policy, ref = forward(model, batch), forward(reference, batch)
    ends = answer_ends(batch, frozenset({END}))
    return token_figures(policy, ReferenceTokens(ref.chosen, ref.rejected), ends)


def parting(pair: Pair) -> int:
    both = zip(pair.chosen, pair.rejected, strict=False)
    return next(
        (place for place, (one, two) in enumerate(both) if one != two),
        min(len(pair.chosen), len(pair.rejected)),
    )


def generated(answer: list[int]) -> list[int]:
    """An answer up to its end token."""
    return answer[: answer.index(END) + 1] if END in answer else answer


def by_hand(model, reference, pair: Pair) -> dict[str, float]:
    """The figures of one pair from full logits, and from decoding greedily."""
    found = {}
    first = parting(pair)
    for side in ("chosen", "rejected"):
        answer = getattr(pair, side)
        for prefix, asked in (("", model), ("ref_", reference)):
            logps = separate_logps(asked, pair.prompt, answer).tolist()
            at_end = logps[answer.index(END)] if END in answer else math.nan
            at_parting = logps[first] if first < len(answer) else math.nan
            found[f"{prefix}{side}_end_logps"] = at_end
            found[f"{prefix}{side}_first_difference_logps"] = at_parting
    rest = generated(pair.chosen)[first:]
    logps = separate_logps(model, pair.prompt, pair.chosen).tolist()[first : first + len(rest)]
    found["chosen_hardest_logps"] = min(logps, default=math.nan)
    own = greedy(model, pair.prompt + pair.chosen[:first], max(len(rest), 1))
    alike = 0
    while alike < min(len(own), len(rest)) and own[alike] == rest[alike]:
        alike += 1
    found["followed_shares"] = alike / len(rest) if rest else math.nan
    return found


@pytest.mark.parametrize("forward", [shared, with_padding])
def test_both_layouts_say_what_full_logits_and_greedy_decoding_say(forward, model, reference):
    pairs = watched_pairs(model)
    found = figures(forward, model, reference, pairs)
    with torch.no_grad():
        wanted = [by_hand(model, reference, pair) for pair in pairs]
    for name, values in found._asdict().items():
        expected = torch.tensor([pair[name] for pair in wanted], dtype=torch.float64)
        # TRL's head computes in float32, whatever the model does
        torch.testing.assert_close(
            values.double(), expected, equal_nan=True, rtol=1e-5, atol=1e-5, msg=name
        )
    assert found.followed_shares[:2].tolist() == pytest.approx([4 / 6, 1])


def test_the_shared_layout_is_exact_in_float64(model, reference):
    pairs = watched_pairs(model)
    found = figures(shared, model, reference, pairs)
    with torch.no_grad():
        wanted = [by_hand(model, reference, pair) for pair in pairs]
    for name, values in found._asdict().items():
        for value, pair in zip(values.tolist(), wanted, strict=True):
            assert value == pytest.approx(pair[name], abs=1e-10, nan_ok=True), name


def test_a_truncated_answer_has_no_end_and_equal_answers_no_parting(model, reference):
    found = figures(shared, model, reference, watched_pairs(model))
    ends = found.chosen_end_logps.isnan().tolist()
    assert ends == [False, True, False, True, False, False]
    parts = found.chosen_first_difference_logps.isnan().tolist()
    assert parts == [False, False, False, True, True, False]
    assert found.chosen_hardest_logps.isnan().tolist() == parts
    assert found.followed_shares.isnan().tolist() == parts
    rejected = found.rejected_first_difference_logps.isnan().tolist()
    assert rejected == [False, False, False, False, True, False]


def test_an_end_token_in_the_middle_of_an_answer_is_not_its_end():
    pairs = [
        Pair([7], [8, END, 9, 10, 11], [8, END]),  # a turn before the last, which is cut
        Pair([7], [8, 9, END, END, NEWLINE], [END, 9, 10]),  # two special tokens close the turn
    ]
    ends = answer_ends(padded_batch(pairs), frozenset({END}))
    assert ends.chosen.tolist() == [-1, 2]
    assert ends.rejected.tolist() == [1, 0]


def test_every_end_token_of_the_generation_config_counts():
    named = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[2, 3]))
    one = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=4))
    tokenizer = SimpleNamespace(eos_token_id=1)
    assert end_token_ids(tokenizer, named) == {1, 2, 3}
    assert end_token_ids(SimpleNamespace(tokenizer=tokenizer), one) == {1, 4}
    assert end_token_ids(SimpleNamespace(eos_token_id=None), SimpleNamespace()) == set()


def test_without_a_known_end_token_no_answer_ends():
    batch = padded_batch([Pair([7], [8, END], [9, END])])
    assert answer_ends(batch, frozenset()).chosen.tolist() == [-1]


def test_no_figure_carries_a_gradient(model, reference):
    pairs = watched_pairs(model)
    batch = padded_batch(pairs)
    policy = shared(model, batch)
    assert policy.chosen.values.requires_grad
    ref = ReferenceTokens(policy.chosen, policy.rejected)
    found = token_figures(policy, ref, answer_ends(batch, frozenset({END})))
    assert not any(values.requires_grad for values in found)


def test_metrics_are_means_over_the_pairs_that_have_such_a_token(model, reference):
    pairs = watched_pairs(model)
    batch = padded_batch(pairs)
    objective = Objective((("apo_zero", 1.0),), beta=0.1)

    def metrics(rows):
        batch = padded_batch(rows)
        with torch.no_grad():
            policy, ref = shared(model, batch), shared(reference, batch)
        outcomes = pair_outcomes(
            policy,
            ReferenceTokens(ref.chosen, ref.rejected),
            objective,
            torch.arange(len(rows)),
            answer_ends(batch, frozenset({END})),
        )
        return pair_metrics(outcomes, objective)

    found = metrics(pairs)
    with torch.no_grad():
        wanted = [by_hand(model, reference, pair) for pair in pairs]

    def mean(value):
        there = [found for found in map(value, wanted) if not math.isnan(found)]
        return pytest.approx(sum(there) / len(there), abs=1e-6)

    for side in ("chosen", "rejected"):
        for token in ("end", "first_difference"):
            name = f"{side}_{token}_logps"
            assert found[f"{token}_logps/{side}"] == mean(lambda pair, name=name: pair[name])
            assert found[f"{token}_logratios/{side}"] == mean(
                lambda pair, name=name: pair[name] - pair[f"ref_{name}"]
            )
    assert found["hardest_logps/chosen"] == mean(lambda pair: pair["chosen_hardest_logps"])
    assert found["followed/share"] == mean(lambda pair: pair["followed_shares"])
    assert found["followed/whole"] == pytest.approx(1 / 4), "of the four pairs that part"
    alone = metrics(pairs[3:4])
    assert not {"end_logps/chosen", "followed/share", "followed/whole"} & set(alone)
    assert all(math.isfinite(value) for value in alone.values())
    assert isinstance(answer_ends(batch, frozenset({END})), AnswerEnds)
