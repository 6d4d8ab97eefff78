import pytest
import torch
from datasets import Dataset
from transformers import TrainerControl, TrainerState
from trl import DPOConfig

from clair_apo.apo.config import APOConfig, as_apo_config
from clair_apo.errors import ConfigError
from tests.helpers.tiny_apo import make_model, make_rows

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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss_type": "apo_zero"}, "multiply apo_zero's gradient by 0.8 and do nothing else"),
        ({"loss_type": ["apo_zero", "sigmoid"]}, "apo_zero's gradient"),
        ({"loss_type": "sft"}, "does nothing to sft"),
        ({"loss_type": "sigmoid", "ld_alpha": 0.5}, "not beside ld_alpha 0.5"),
        ({"loss_type": "ipo"}, "not beside loss_type ipo"),
        ({"loss_type": "sigmoid", "label_smoothing": 0.5}, "from 0 to below 0.5, got 0.5"),
        ({"loss_type": "sigmoid", "label_smoothing": -0.1}, "from 0 to below 0.5, got -0.1"),
    ],
)
def test_label_smoothing_is_refused_where_it_would_do_nothing_of_its_own(options, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        APOConfig(str(tmp_path), **({"label_smoothing": 0.1} | options))


@pytest.mark.parametrize("loss", ["robust", "exo_pair", "aot"])
def test_label_smoothing_of_trls_own_losses_is_left_to_trl(loss, tmp_path):
    assert APOConfig(str(tmp_path), loss_type=loss, label_smoothing=0.5).label_smoothing == 0.5


def test_label_smoothing_of_a_plain_config_is_checked_where_the_trainer_is_made(apo_trainer):
    given = {"loss_type": ["apo_zero"], "label_smoothing": 0.1, "use_cpu": True, "bf16": False}
    with pytest.raises(ConfigError, match="multiply apo_zero's gradient"):
        apo_trainer(args=DPOConfig("out", **given))


def test_on_alarm_is_one_of_two_words(tmp_path):
    with pytest.raises(ConfigError, match="on_alarm must be warn or stop, got 'die'"):
        APOConfig(str(tmp_path), on_alarm="die")


# --- what each field of our own does, with two values


def rows_of_a_batch(make, **setting):
    trainer = make(**setting)
    return len(trainer.rows.rows(trainer.batches.first(8)).own)


def is_divided_by_tokens(make, **setting):
    """Whether a reward is beta times the mean log-ratio of a token, not their sum."""
    pair = Dataset.from_list(make_rows(1))
    trainer = make(ref_model=make_model(1), data=pair, eval_dataset=pair, **setting)
    found = trainer.evaluate()
    ratio = found["eval_logps/chosen"] - found["eval_ref_logps/chosen"]
    mean = trainer.beta * ratio / found["eval_lengths/chosen"]
    return found["eval_rewards/chosen"] == pytest.approx(mean, rel=1e-3)


def stops_at_an_alarm(make, **setting):
    logs = {"loss": 1.0, "learning_rate": 0.0, "saturation": 0.0, "rewards/chosen": -1.0}
    trainer, control = make(**setting), TrainerControl()
    for step in range(1, 6):
        state = TrainerState(log_history=[logs | {"step": step}])
        trainer.alarms.on_log(trainer.args, state, control)
    return control.should_training_stop


def starts_at_zero(make, **setting):
    """Whether the policy is its own reference: rewards before training are 0."""
    pair = Dataset.from_list(make_rows(1))
    rewards = make(make_model(1), data=pair, eval_dataset=pair, **setting).evaluate()
    return abs(rewards["eval_rewards/chosen"]) < 1e-5


def files_beside(make, tmp_path, **setting):
    make(**setting)
    return len(list((tmp_path / "mine").rglob("*.safetensors")))


def watches(make, tmp_path, **setting):
    """The figures of watched answers at the start of a run."""
    (tmp_path / "rules.yaml").write_text("checks: [{name: short, max_words: 3}]")
    pairs = Dataset.from_list(make_rows(2))
    trainer = make(eval_dataset=pairs, max_steps=1, **setting)
    trainer.train()
    return {name for name in trainer.state.log_history[0] if name.startswith("watch/")}


EFFECTS = {
    "pair_layout": lambda make, _: (
        make(pair_layout="shared_prefix").layout.is_padded,
        make(pair_layout="padded").layout.is_padded,
    ),
    "max_tokens_per_batch": lambda make, _: (
        rows_of_a_batch(make, max_tokens_per_batch=None) > 1,
        rows_of_a_batch(make, max_tokens_per_batch=60) > 1,
    ),
    "length_normalize": lambda make, _: (
        is_divided_by_tokens(make, length_normalize=False),
        is_divided_by_tokens(make, length_normalize=True),
    ),
    "on_alarm": lambda make, _: (
        stops_at_an_alarm(make, on_alarm="warn"),
        stops_at_an_alarm(make, on_alarm="stop"),
    ),
    "watch_prompts": lambda make, folder: (
        "watch/ended" in watches(make, folder, watch_prompts=0),
        "watch/ended" in watches(make, folder, watch_prompts=2),
    ),
    "watch_checks": lambda make, folder: (
        "watch/checks/short" in watches(make, folder, watch_prompts=2),
        "watch/checks/short"
        in watches(make, folder, watch_prompts=2, watch_checks=str(folder / "rules.yaml")),
    ),
    "reference": lambda make, folder: (
        not starts_at_zero(make, reference="initial"),
        not starts_at_zero(make, reference=str(folder / "tiny")),
    ),
    "reference_cache": lambda make, folder: (
        files_beside(make, folder) > 0,
        files_beside(make, folder, reference_cache=str(folder / "mine")) > 0,
    ),
}
"""Makes trainers with two values of a field, and says of each whether an effect is there."""


def test_every_field_of_our_own_is_in_the_table_of_effects():
    own = set(APOConfig.__dataclass_fields__) - set(DPOConfig.__dataclass_fields__)
    assert own == set(EFFECTS)


@pytest.mark.parametrize("field", EFFECTS)
def test_a_field_of_our_own_has_its_effect(field, apo_trainer, tiny_folder, tmp_path):
    assert EFFECTS[field](apo_trainer, tmp_path) == (False, True)


def test_a_plain_config_is_copied_with_our_defaults_and_stays_what_it_was(tmp_path):
    plain = DPOConfig(output_dir=str(tmp_path), use_cpu=True, beta=0.3, loss_type="ipo")
    found = as_apo_config(plain)
    assert not hasattr(plain, "pair_layout")
    assert (found.pair_layout, found.reference, found.on_alarm) == ("auto", "initial", "warn")
    assert (found.beta, found.loss_type, found.bf16) == (0.3, ["ipo"], True)
    assert found.precompute_ref_log_probs is False, "TRL's default, not ours"
    ours = APOConfig(str(tmp_path))
    assert as_apo_config(ours) is ours
