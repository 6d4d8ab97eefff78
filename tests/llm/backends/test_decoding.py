"""Rows that have ended make room: what is answered stays the same, token by token."""

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaForCausalLM

from clair_apo.llm.backends.decoding import Ends, SeededSampling, generate
from clair_apo.records import Sampling
from tests.helpers.tiny_chat import tiny_config

PROMPTS = [[5, 6], [7, 8, 9, 10, 11], [12], [6, 5, 4], [9, 9, 8, 7], [4, 13, 5]]
ENDS = Ends(frozenset({1, 2, 3}), max_tokens=24, pad=0)


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config(bos_token_id=None, eos_token_id=1)).double().eval()


def with_convolutions():
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
        initializer_range=0.3,
        pad_token_id=0,
    )
    return Lfm2ForCausalLM(config).double().eval()


def answers(model, prompts=PROMPTS, ends=ENDS, temperature=1.0):
    draw = SeededSampling(
        [sum(prompt) for prompt in prompts],
        Sampling(max_tokens=ends.max_tokens, temperature=temperature, top_p=1.0),
    )
    return generate(model, prompts, ends, draw)


def forwards(model):
    """Rows and tokens of each forward pass from here on."""
    shapes = []
    model.register_forward_pre_hook(
        lambda module, args, options: shapes.append(tuple(options["input_ids"].shape)),
        with_kwargs=True,
    )
    return shapes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("make", [llama, with_convolutions])
def test_a_row_is_answered_as_if_it_were_alone(make, temperature):
    model = make()
    together = answers(model, temperature=temperature)
    alone = [answers(model, [prompt], temperature=temperature)[0] for prompt in PROMPTS]
    assert together == alone


def test_answers_differ_in_length_and_end_where_they_should():
    found = answers(llama())
    assert len({len(answer) for answer in found}) > 2
    for answer in found:
        assert not ENDS.tokens & set(answer[:-1])
        assert answer[-1] in ENDS.tokens or len(answer) == ENDS.max_tokens


def test_rows_leave_by_halves_and_nothing_is_read_twice():
    model = llama()
    shapes = forwards(model)
    found = answers(model)
    assert shapes[0] == (len(PROMPTS), 5)
    assert {width for _, width in shapes[1:]} == {1}
    rows = [count for count, _ in shapes]
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) > 1
    assert len(shapes) == max(map(len, found))


def test_what_a_cache_cannot_select_is_computed_again():
    model = with_convolutions()
    shapes = forwards(model)
    answers(model)
    rows = [count for count, _ in shapes]
    fewer = next(place for place, count in enumerate(rows) if count < len(PROMPTS))
    assert shapes[fewer][1] > 1


@pytest.mark.parametrize("limit", [1, 2])
def test_no_answer_is_longer_than_its_limit(limit):
    found = answers(llama(), ends=ENDS._replace(max_tokens=limit))
    assert {len(answer) for answer in found} <= set(range(1, limit + 1))


def test_without_an_ending_token_all_go_to_the_limit():
    found = answers(llama(), ends=ENDS._replace(tokens=frozenset()))
    assert [len(answer) for answer in found] == [ENDS.max_tokens] * len(PROMPTS)
