"""Tokens of a row by default: from the device, whose memory is made up here."""

import pytest
import torch

from clair_apo.apo.forward.row_size import (
    CPU_TOKENS,
    LEAST_SPREAD,
    MOST,
    SHARE,
    activation_bytes,
    row_tokens,
)
from tests.helpers.tiny_apo import make_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """A CUDA device with so many bytes free, beside what torch holds unused."""

    def has(free, reserved=0, allocated=0):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)

    return has


def test_a_cpu_has_as_many_as_before_and_what_was_asked_for_holds_everywhere(config, gpu):
    gpu(2**40)
    assert row_tokens(make_model(), config(), CPU) == CPU_TOKENS == 4096
    assert row_tokens(make_model(), config(max_tokens_per_batch=77), CUDA) == 77
    assert row_tokens(make_model(), config(max_tokens_per_batch=None), CUDA) is None
    assert row_tokens(make_model(), config(max_tokens_per_batch="77"), CUDA) == 77


def test_a_gpu_has_the_power_of_two_that_half_of_its_free_memory_holds(config, gpu):
    model, args = make_model(), config()
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    # 16 hidden and 5 intermediate widths in each of 2 layers, in float32
    of_token = 2 * (16 * 32 + 5 * 48) * 4
    assert activation_bytes(model, args) == of_token
    # the weights are not there yet, their gradients neither, nor two states of AdamW
    room = 4 * weights
    gpu(int(20_000 * of_token / SHARE) + room)
    assert row_tokens(model, args, CUDA) == 16_384
    gpu(int(40_000 * of_token / SHARE), reserved=room + 5, allocated=5)
    assert row_tokens(model, args, CUDA) == 32_768
    gpu(2**40)
    assert row_tokens(model, args, CUDA) == MOST
    gpu(room)
    assert row_tokens(model, args, CUDA) == CPU_TOKENS


def test_checkpointing_16_bits_and_frozen_weights_make_longer_rows(config, gpu):
    model = make_model()
    room = 4 * 4 * sum(weight.numel() for weight in model.parameters())
    gpu(int(10_000 * activation_bytes(model, config()) / SHARE) + room)
    assert row_tokens(model, config(), CUDA) == 8192
    assert row_tokens(model, config(gradient_checkpointing=True), CUDA) == 16_384
    assert row_tokens(model, config(bf16=True), CUDA) == 16_384
    gpu(int(8192 * activation_bytes(model, config()) / SHARE) + room // 2)
    assert row_tokens(model, config(), CUDA) == 4096
    model.requires_grad_(False)  # neither gradients nor states
    assert row_tokens(model, config(), CUDA) == 8192


def test_where_every_row_gathers_the_weights_no_row_is_short(config, gpu):
    """Not even where memory seems to hold none: 4,096 tokens for each gathering would be slow."""
    gpu(0)
    assert row_tokens(make_model(), config(), CUDA, pieces=8) == LEAST_SPREAD >= 4 * 4096


def test_spread_weights_take_their_part_of_each_device(config, gpu):
    model = make_model()
    room = 4 * 4 * sum(weight.numel() for weight in model.parameters())
    gpu(int(32_768 * activation_bytes(model, config()) / SHARE) + room // 4 + 1)
    assert row_tokens(model, config(), CUDA, pieces=4) == 32_768
    assert row_tokens(model, config(), CUDA) == 16_384


def test_a_trainer_resolves_it_once_and_says_the_number(apo_trainer):
    trainer = apo_trainer()
    assert trainer.args.max_tokens_per_batch == 4096


@pytest.mark.parametrize("asked", ["many", "0", -3, "1.5"])
def test_what_is_no_number_of_tokens_is_named(config, asked):
    with pytest.raises(ValueError, match="max_tokens_per_batch must be auto or at least 1, got"):
        config(max_tokens_per_batch=asked)
