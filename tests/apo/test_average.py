"""The mean of models, against arithmetic on their weights."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from clair_apo.apo.average import average_models, weights_from_text
from clair_apo.apo.reference.model_function import model_function
from clair_apo.cli import app
from clair_apo.errors import ConfigError
from tests.helpers.tiny_apo import make_model, make_tokenizer


@pytest.fixture
def folder(tmp_path):
    """Saves a model with its tokenizer; returns the folder."""

    def save(name, model, tokenizer=None):
        model.save_pretrained(tmp_path / name)
        (tokenizer or make_tokenizer()).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def weights(model_or_folder):
    model = model_or_folder
    if not isinstance(model, torch.nn.Module):
        model = AutoModelForCausalLM.from_pretrained(model)
    return dict(model.named_parameters())


@pytest.mark.parametrize("shares", [None, [0.9, 0.1, 0.0], [0.0, 0.25, 0.75]])
def test_each_weight_is_the_mean_of_the_models_weights(folder, tmp_path, shares):
    models = [make_model(seed) for seed in range(3)]
    names = [folder(f"m{i}", model) for i, model in enumerate(models)]
    average_models(names, tmp_path / "mean", shares)
    found = weights(tmp_path / "mean")
    for name, value in found.items():
        pairs = zip(shares or [1 / 3] * 3, models, strict=True)
        parts = [share * weights(model)[name].double() for share, model in pairs]
        torch.testing.assert_close(value.double(), sum(parts), atol=1e-7, rtol=1e-6)
    ids = torch.tensor([[6, 7, 8]])
    assert not torch.allclose(
        AutoModelForCausalLM.from_pretrained(tmp_path / "mean")(ids).logits, models[0](ids).logits
    )


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_of_equal_models_is_that_model_bit_for_bit(folder, tmp_path, count, dtype):
    name = folder("same", make_model().to(dtype))
    average_models([name] * count, tmp_path / "mean")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "mean")
    assert found.dtype == dtype
    assert (
        model_function(found).digest
        == model_function(AutoModelForCausalLM.from_pretrained(name)).digest
    )


def test_tied_weights_stay_tied(folder, tmp_path):
    names = [folder(str(seed), make_model(seed, tie_word_embeddings=True)) for seed in range(2)]
    average_models(names, tmp_path / "mean")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "mean")
    assert found.lm_head.weight is found.model.embed_tokens.weight
    expected = sum(weights(name)["model.embed_tokens.weight"] for name in names) / 2
    torch.testing.assert_close(found.lm_head.weight, expected)


def test_adapters_are_merged_first_since_the_mean_of_factors_is_not_that_of_products(
    folder, tmp_path
):
    base = folder("base", make_model())
    merged = []
    for seed in range(2):
        torch.manual_seed(seed)
        lora = LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
        adapted = get_peft_model(make_model(), lora)
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(tmp_path / f"adapter{seed}")
        merged.append(weights(adapted.merge_and_unload()))
    average_models([str(tmp_path / "adapter0"), str(tmp_path / "adapter1")], tmp_path / "mean")
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = (merged[0][name] + merged[1][name]) / 2
    torch.testing.assert_close(weights(tmp_path / "mean")[name], expected)
    assert (expected - weights(base)[name]).abs().max() > 0.1


def test_the_folder_says_what_it_was_made_of_and_has_the_first_tokenizer(folder, tmp_path):
    names = [folder(str(seed), make_model(seed)) for seed in range(2)]
    average_models(names, tmp_path / "mean", [0.75, 0.25])
    made = json.loads((tmp_path / "mean" / "average.json").read_text())["models"]
    assert [one["name"] for one in made] == names
    assert [one["weight"] for one in made] == [0.75, 0.25]
    assert [one["digest"] for one in made] == [
        model_function(make_model(s)).digest for s in range(2)
    ]
    assert AutoTokenizer.from_pretrained(tmp_path / "mean").get_vocab() == (
        make_tokenizer().get_vocab()
    )
    assert not list(tmp_path.glob(".mean*"))


def test_models_that_do_not_fit_are_refused_by_what_differs(folder, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["w999"])
    first = folder("first", make_model())
    cases = {
        r"rms_norm_eps is 1e-06 in one and 0\.5": folder("norm", make_model(rms_norm_eps=0.5)),
        "attention_bias": folder("bias", make_model(attention_bias=True)),
        "another vocabulary": folder("words", make_model(), tokenizer),
    }
    for message, other in cases.items():
        with pytest.raises(ConfigError, match=message):
            average_models([first, other], tmp_path / "mean")
        assert not (tmp_path / "mean").exists()


def test_a_torn_checkpoint_is_refused(folder, tmp_path):
    names = [folder(f"checkpoint-{n}", make_model()) for n in (1, 2)]
    (tmp_path / "checkpoint-2" / "checkpoint.json").write_text('{"complete": false}')
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
    with pytest.raises(
        ConfigError, match="checkpoint-2 is no complete checkpoint: it was not written"
    ):
        average_models(names, tmp_path / "mean")


def test_weights_are_one_for_each_model_with_a_sum_of_one(folder, tmp_path):
    names = [folder("a", make_model()), folder("b", make_model(1))]
    for shares in ([0.5], [0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0]):
        with pytest.raises(ConfigError, match="weights"):
            average_models(names, tmp_path / "mean", shares)
    with pytest.raises(ConfigError, match="two models or more"):
        average_models(names[:1], tmp_path / "mean")
    assert weights_from_text("0.9,0.1") == [0.9, 0.1]
    with pytest.raises(ConfigError, match=r"numbers such as 0\.9,0\.1"):
        weights_from_text("0.9;0.1")


def test_the_command_writes_the_mean_and_never_over_something(folder, tmp_path):
    names = [folder("a", make_model()), folder("b", make_model(1))]
    options = ["--output_dir", str(tmp_path / "mean"), "--weights", "0.9,0.1"]
    done = CliRunner().invoke(app, ["average", *names, *options])
    assert done.exit_code == 0
    assert f"0.9 of {names[0]}" in done.stdout
    again = CliRunner().invoke(app, ["average", *names, *options])
    assert again.exit_code == 2
