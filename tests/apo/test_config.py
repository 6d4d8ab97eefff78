from pathlib import Path

import pytest
import torch
from trl import DPOConfig

from clair_apo.apo.config import APOConfig
from clair_apo.errors import ConfigError

without_accelerator = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="speaks of a machine without accelerator"
)


def test_the_default_objective_is_apo_zero_and_another_can_be_chosen(tmp_path):
    assert APOConfig(str(tmp_path)).loss_type == ["apo_zero"]
    assert APOConfig(str(tmp_path), loss_type="apo_down").loss_type == ["apo_down"]
    assert APOConfig(str(tmp_path), loss_type=["sigmoid"]).loss_type == ["sigmoid"]


@without_accelerator
def test_it_works_unchanged_without_accelerator_where_trls_raises(tmp_path):
    with pytest.raises(ValueError, match="bf16"):
        DPOConfig(output_dir=str(tmp_path))
    chosen = APOConfig(output_dir=str(tmp_path))
    assert (chosen.use_cpu, chosen.bf16, chosen.device.type) == (True, False, "cpu")


@without_accelerator
def test_bf16_on_a_cpu_is_on_where_it_was_asked_for(tmp_path):
    assert APOConfig(str(tmp_path), bf16=True).bf16 is True


def test_use_cpu_alone_means_fp32_where_trl_turns_bf16_on(tmp_path):
    assert DPOConfig(str(tmp_path), use_cpu=True).bf16 is True
    assert APOConfig(str(tmp_path), use_cpu=True).bf16 is False


@pytest.mark.parametrize("loss", ["apo_zero", "apo_down"])
def test_apo_with_another_divergence_is_refused(loss, tmp_path):
    with pytest.raises(ConfigError, match=f"{loss} is defined for .* reverse_kl only"):
        APOConfig(str(tmp_path), loss_type=["sigmoid", loss], f_divergence_type="js_divergence")


def test_dpo_with_another_divergence_is_left_to_trl(tmp_path):
    chosen = APOConfig(str(tmp_path), loss_type="sigmoid", f_divergence_type="js_divergence")
    assert chosen.f_divergence_type == "js_divergence"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"loss_type": ["apo_zero", "ipo"]}, "loss_type ipo"),
        ({"loss_type": "sigmoid", "f_divergence_type": "js_divergence"}, "f_divergence_type js"),
        ({"ld_alpha": 0.5}, "ld_alpha 0.5"),
        ({"use_weighting": True}, "use_weighting"),
    ],
)
def test_length_normalize_is_refused_beside_what_trl_computes_itself(options, named, tmp_path):
    with pytest.raises(ConfigError, match=f"length_normalize is for .* not beside {named}"):
        APOConfig(str(tmp_path), length_normalize=True, **options)


def test_on_alarm_is_one_of_two_words(tmp_path):
    with pytest.raises(ConfigError, match="on_alarm must be warn or stop, got 'die'"):
        APOConfig(str(tmp_path), on_alarm="die")


EFFECT_TESTED_IN = {
    "length_normalize": "test_trainer.py",
    "max_tokens_per_batch": "forward/test_pair_layout.py",
    "on_alarm": "test_alarms_in_training.py",
    "pair_layout": "forward/test_pair_layout.py",
    "reference": "reference/test_logprobs.py",
    "reference_cache": "reference/test_cache.py",
}


def test_every_field_of_its_own_has_a_test_of_its_effect():
    own = set(APOConfig.__dataclass_fields__) - set(DPOConfig.__dataclass_fields__)
    assert own == set(EFFECT_TESTED_IN)
    for field, file in EFFECT_TESTED_IN.items():
        assert f"{field}=" in (Path(__file__).parent / file).read_text()
