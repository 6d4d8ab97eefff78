"""Which library multiplies in float32: exact where it is used, and torch's setting afterwards."""

import pytest
import torch
from transformers import AttentionInterface, LlamaForCausalLM

from clair_apo import float32_products
from clair_apo.float32_products import fast_float32_products
from tests.helpers.tiny_chat import tiny_config

CPU = torch.device("cpu")


def setting() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def exact(monkeypatch):
    """Says of this processor whether it is exact; nothing else is asked."""
    return lambda answer: monkeypatch.setattr(float32_products, "_keeps_float32", lambda: answer)


def test_products_are_exact_to_float32_within():
    left, right = (
        torch.randn(300, 500, generator=torch.Generator().manual_seed(n)) for n in (1, 2)
    )
    wanted = left.double() @ right.double().t()
    with fast_float32_products(CPU):
        found = left @ right.t()
    assert (found - wanted).norm() / wanted.norm() < 1e-6


def test_an_exact_processor_is_asked_for_onednn_and_torch_gets_its_setting_back(exact):
    exact(True)
    before = setting()
    with fast_float32_products(CPU):
        assert setting() == "bf16"
        with fast_float32_products(CPU):
            pass
        assert setting() == "bf16"
    assert setting() == before
    with pytest.raises(KeyError), fast_float32_products(CPU):
        raise KeyError
    assert setting() == before


def test_one_that_rounds_is_left_alone(exact):
    exact(False)
    before = setting()
    with fast_float32_products(CPU):
        assert setting() == before


def test_elsewhere_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(float32_products, "_keeps_float32", lambda: pytest.fail("was tried"))
    with fast_float32_products(torch.device("cuda")):
        pass


def test_what_is_found_under_autocast_is_what_is_found_without():
    found = []
    for autocasts in (True, False):
        float32_products._keeps_float32.cache_clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocasts):
            found.append(float32_products._keeps_float32())
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_to_bfloat16_is_noticed(monkeypatch, dtype):
    """Whatever dtype new tensors have by default."""
    float32_products._keeps_float32.cache_clear()

    def product(left, right):
        rounds = left.dtype == torch.float32
        left, right = (x.bfloat16().to(x.dtype) if rounds else x for x in (left, right))
        return torch.mm(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    torch.set_default_dtype(dtype)
    try:
        assert not float32_products._keeps_float32()
    finally:
        torch.set_default_dtype(torch.float32)
        float32_products._keeps_float32.cache_clear()


def test_a_single_query_attends_without_onednn_and_gets_what_torch_gives(exact, monkeypatch):
    exact(True)
    model = LlamaForCausalLM(tiny_config()).eval()
    wanted = answer(model)
    seen = set()
    by_torch = float32_products._BY_TORCH

    def attended(module, query, *args, **options):
        seen.add((query.shape[2] == 1, setting()))
        return by_torch(module, query, *args, **options)

    monkeypatch.setattr(float32_products, "_BY_TORCH", attended)
    with fast_float32_products(CPU):
        found = answer(model)
    assert seen == {(False, "bf16"), (True, "ieee")}
    assert found.tolist() == wanted.tolist()


def test_transformers_gets_its_attention_back(exact):
    exact(True)
    before = AttentionInterface()["sdpa"]
    with pytest.raises(KeyError), fast_float32_products(CPU):
        with fast_float32_products(CPU):
            assert AttentionInterface()["sdpa"] is not before
        assert AttentionInterface()["sdpa"] is not before
        raise KeyError
    assert AttentionInterface()["sdpa"] is before


def answer(model):
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    with torch.inference_mode():
        return model.generate(
            input_ids=ids, attention_mask=(ids > 0).long(), max_new_tokens=6, do_sample=False
        )
