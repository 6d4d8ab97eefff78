import json

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from clair_apo.apo.arguments import parse_arguments
from clair_apo.apo.dry_run import rows as dry_rows
from clair_apo.apo.dry_run.estimate import UTILISATION, estimate
from clair_apo.apo.dry_run.run import preview
from clair_apo.apo.dry_run.text import dry_run_text
from clair_apo.apo.forward import operations
from clair_apo.apo.lengths import pair_lengths
from clair_apo.apo.train import main
from clair_apo.errors import ConfigError, TrainingError
from tests.helpers.tiny_apo import make_model, make_rows


@pytest.fixture(autouse=True)
def quick_rate(monkeypatch):
    monkeypatch.setattr(operations, "RATE_SECONDS", 0.01)


@pytest.fixture
def run(tiny_folder, tmp_path):
    """The setup of a quick training; rows and keywords override."""

    def make(rows=None, **options):
        data = tmp_path / "pairs.jsonl"
        data.write_text("".join(json.dumps(r) + "\n" for r in rows or make_rows(24)))
        values = {
            "model_name_or_path": str(tiny_folder),
            "dataset_name": str(data),
            "output_dir": str(tmp_path / "out"),
            "held_out": 0.3,
            "per_device_train_batch_size": 4,
            "gradient_checkpointing": False,
        }
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(values | options))
        return ["--config", str(path)]

    return make


def printed(run, capsys):
    capsys.readouterr()
    main([*run, "--dry_run"])
    return capsys.readouterr().out


def test_it_prints_counts_lengths_layout_and_estimates_and_writes_nothing(run, tmp_path, capsys):
    arguments = run(max_pairs=10)
    before = sorted(tmp_path.rglob("*"))
    text = printed(arguments, capsys)
    assert sorted(tmp_path.rglob("*")) == before
    found = preview(parse_arguments(run(max_pairs=10)))
    assert found.trained == 10
    assert found.pairs == 24 == found.trained + found.held_out + found.beyond_max_pairs
    assert f"24 pairs = 10 to train on + {found.held_out} held out + " in text
    assert "truncated: no answer" in text
    assert f"{found.lengths.saved_share:.0%} saved" in text
    assert "pair layout: shared_prefix" in text
    assert "problems: none" in text
    assert "memory, estimated: " in text
    assert "time, estimated: " in text


def test_its_tokens_are_those_of_the_trainer(run, tiny_folder):
    from clair_apo.apo.train import load_split, make_trainer

    setup = parse_arguments(run(max_length=16))
    trainer = make_trainer(setup, load_split(setup))
    expected = pair_lengths(trainer.train_dataset, 16, "keep_start")
    found = preview(setup)
    assert found.lengths == expected
    assert found.lengths.truncated_chosen > 0
    assert found.layout == trainer.pair_layout


def test_pairs_that_training_refuses_are_listed_with_what_it_says(run, capsys):
    rows = make_rows(6)
    rows[2]["prompt"][0]["content"] = " ".join(["w1"] * 40)
    setup = parse_arguments(run(rows, held_out=0.0, max_length=30))
    found = preview(setup)
    (problem,) = found.problems
    assert problem.stops
    assert "the prompt alone has 43 tokens" in problem.what
    assert found.lengths.pairs == 5, "the others are measured"
    text = printed(run(rows, held_out=0.0, max_length=30), capsys)
    assert "training would stop: 1 pairs: the prompt alone has 43 tokens" in text
    assert problem.id in text
    with pytest.raises(TrainingError, match=f"{problem.id}: the prompt alone has 43 tokens"):
        main(run(rows, held_out=0.0, max_length=30))


def test_a_template_that_raises_names_each_row_and_the_others_go_on(run, tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(tiny_folder)
    rows = make_rows(6)
    for number in (1, 4):
        rows[number]["prompt"].insert(0, {"role": "system", "content": f"w{number}"})
    found = preview(parse_arguments(run(rows, held_out=0.0)))
    assert [p.what for p in found.problems] == ["the chat template refuses it: no system turn"] * 2
    assert found.lengths.pairs == 4


def what_is_doubted(run, rows, **options):
    found = preview(parse_arguments(run(rows, held_out=0.0, **options)))
    assert not any(problem.stops for problem in found.problems)
    return sorted(problem.what for problem in found.problems)


def test_answers_that_are_the_same_or_differ_beyond_the_cut_are_worth_a_look(run):
    rows = make_rows(3)
    rows[0]["rejected"] = rows[0]["chosen"]
    (same,) = what_is_doubted(run, rows)
    assert same.startswith("both answers are the same tokens")
    rows = make_rows(3)
    rows[1]["prompt"][0]["content"] = "w1"
    rows[1]["chosen"][0]["content"], rows[1]["rejected"][0]["content"] = (
        " ".join(["w2"] * 20 + [last]) for last in ("w3", "w4")
    )
    assert "the answers differ only beyond max_length 20" in what_is_doubted(
        run, rows, max_length=20
    )


def test_missing_end_tokens_and_unknown_words_are_worth_a_look(run, tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m.content }} <eos>", "{{ m.content }}"
    )
    tokenizer.save_pretrained(tiny_folder)
    rows = make_rows(1)
    rows[0]["chosen"][0]["content"] = "w1 w2 w3 w4"
    rows[0]["rejected"][0]["content"] = "w1 w2 elsewhere w3 w4 w5"
    found = what_is_doubted(run, rows)
    assert [what.split(":")[0] for what in found] == [
        "'chosen' has no end token",
        "'rejected' has no end token",
        "1 tokens are unknown to the tokenizer",
    ]


def test_a_tokenizer_without_template_is_said(run, tiny_folder):
    (tiny_folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat_template"):
        preview(parse_arguments(run()))


def test_a_model_that_cannot_share_prefixes_is_padded_with_the_reason(run, tiny_folder):
    config = json.loads((tiny_folder / "config.json").read_text())
    config["alibi"] = True
    (tiny_folder / "config.json").write_text(json.dumps(config))
    assert preview(parse_arguments(run())).layout.startswith("padded (positions enter the model as")
    assert preview(parse_arguments(run(pair_layout="padded"))).layout == "padded (asked for)"
    with pytest.raises(ConfigError, match="pair_layout shared_prefix: positions enter"):
        preview(parse_arguments(run(pair_layout="shared_prefix")))


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"loss_type": "ipo"}, "loss_type ipo is computed by TRL"),
        ({"ld_alpha": 0.5}, "ld_alpha 0.5 is TRL's alone"),
        ({"use_weighting": True}, "use_weighting True is TRL's alone"),
        ({"pad_to_multiple_of": 8}, "pad_to_multiple_of 8 asks for padding"),
        ({"torch_compile": True}, "torch_compile would compile every row anew"),
    ],
    ids=str,
)
def test_settings_that_pad_a_training_pad_its_dry_run(run, options, reason):
    found = preview(parse_arguments(run(**options)))
    assert found.layout == f"padded ({reason})"
    assert found.estimate.operations > estimated(run).operations
    with pytest.raises(ConfigError, match=f"pair_layout shared_prefix: {reason}"):
        preview(parse_arguments(run(pair_layout="shared_prefix", **options)))


def test_an_adapter_without_a_tokenizer_has_that_of_its_model(run, tiny_folder, tmp_path):
    lora = LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM")
    adapter = tmp_path / "adapter"
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_folder), lora).save_pretrained(adapter)
    assert not list(adapter.glob("tok*"))
    found = preview(parse_arguments(run(model_name_or_path=str(adapter))))
    assert found.lengths == preview(parse_arguments(run())).lengths
    other = AutoTokenizer.from_pretrained(tiny_folder)
    other.chat_template = "w1 " + other.chat_template
    other.save_pretrained(adapter)
    beside = preview(parse_arguments(run(model_name_or_path=str(adapter))))
    assert beside.lengths.prompt.minimum == found.lengths.prompt.minimum + 1


def estimated(run, **options):
    return preview(parse_arguments(run(**options))).estimate


def test_memory_counts_weights_gradients_states_and_the_reference(run):
    weights = sum(w.numel() for w in make_model().parameters()) * 4
    found = estimated(run)
    assert (found.weights, found.gradients, found.optimizer) == (weights, weights, 2 * weights)
    assert found.reference == 0
    assert found.memory == 4 * weights + found.activations
    assert estimated(run, optim="sgd").optimizer == 0
    assert estimated(run, optim="adamw_bnb_8bit").optimizer is None
    assert estimated(run, precompute_ref_log_probs=False).reference == weights
    assert estimated(run, dtype="bfloat16").weights == weights // 2


def test_an_adapter_is_all_that_is_trained(run):
    found = estimated(run, use_peft=True, lora_r=4, lora_target_modules=["q_proj", "v_proj"])
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, task_type="CAUSAL_LM")
    adapted = get_peft_model(make_model(), lora)
    trained = sum(w.numel() for w in adapted.parameters() if w.requires_grad)
    assert found.trained == trained
    assert found.gradients == 4 * trained
    assert found.parameters == sum(w.numel() for w in adapted.parameters())
    assert found.reference == 0, "the adapter is switched off"
    assert found.operations < estimated(run).operations


def test_activations_follow_the_tokens_that_go_through_at_a_time(run):
    usual = estimated(run).activations
    assert estimated(run, per_device_train_batch_size=8).activations == 2 * usual
    assert estimated(run, max_tokens_per_batch=50).activations < usual
    assert estimated(run, gradient_checkpointing=True).activations < usual
    assert estimated(run, pair_layout="padded").activations > usual


def test_steps_and_operations_follow_epochs_and_batches(run):
    once, twice = (estimated(run, num_train_epochs=n, held_out=0.0) for n in (1, 2))
    assert (once.steps, twice.steps) == (6, 12)
    assert estimated(run, max_steps=5).steps == 5
    assert estimated(run, gradient_accumulation_steps=3, held_out=0.0).steps == 2 * 3
    # three forwards an epoch, and one of the reference
    assert twice.operations / once.operations == pytest.approx((2 * 3 + 1) / (3 + 1))
    assert once.seconds == once.operations / (once.rate * UTILISATION)


def test_the_operations_are_two_for_each_weight_and_token_that_meet(run, model):
    setup = parse_arguments(run(held_out=0.0, num_train_epochs=1))
    lengths = preview(setup).lengths
    found = estimate(model, lengths, setup.args, padded=False, rate=1.0, limit=4096)
    body = sum(
        w.numel() for n, w in model.named_parameters() if "embed" not in n and "head" not in n
    )
    hidden, vocabulary = 32, model.config.vocab_size
    answers = 24 * (lengths.chosen.mean + lengths.rejected.mean)
    attention = 2 * 2 * hidden * (lengths.separate_tokens / 48) * lengths.tree_tokens
    forward = 2 * body * lengths.tree_tokens + 2 * hidden * vocabulary * answers + attention
    assert found.operations == pytest.approx(4 * forward)
    assert found.of_position == pytest.approx(3 * forward / lengths.tree_tokens)


def test_the_text_cuts_a_long_list_of_pairs(run):
    rows = make_rows(24)
    for row in rows:
        row["rejected"] = row["chosen"]
    found = preview(parse_arguments(run(rows, held_out=0.0)))
    lines = [part for part in dry_run_text(found).renderables if isinstance(part, str)]
    (line,) = [part for part in lines if "worth a look" in part]
    assert "24 pairs" in line
    assert "and 14 more" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "6 held-out"), ({"watch_prompts": 2}, "2 held-out"), ({"watch_prompts": 0}, None)],
)
def test_watched_answers_are_announced_where_pairs_are_held_out(run, options, said):
    found = preview(parse_arguments(run(make_rows(24), held_out=0.3, **options)))
    assert found.held_out == 6
    lines = [part for part in dry_run_text(found).renderables if isinstance(part, str)]
    announced = [line for line in lines if line.startswith("watched answers: ")]
    assert [said in line for line in announced] == ([True] if said else [])


# --- rows


@pytest.mark.parametrize("layout", ["padded", "shared_prefix"])
def test_its_rows_are_those_of_training(run, layout):
    from clair_apo.apo.train import load_split, make_trainer

    options = {"pair_layout": layout, "max_tokens_per_batch": 60, "held_out": 0.0}
    setup = parse_arguments(run(**options))
    plan = preview(setup).rows
    trainer = make_trainer(setup, load_split(setup))
    batches = [
        trainer.batches.collate([trainer.train_dataset[i] for i in range(first, first + 4)])
        for first in range(0, 24, 4)
    ]
    rows = [trainer.rows.rows(batch).own for batch in batches]
    assert plan.batches == len(batches)
    assert plan.rows == sum(map(len, rows)) > len(batches)
    seen = [trainer.rows.forward(trainer.model, batch) for batch in batches]
    assert plan.positions == sum(int(found.positions.sum()) for found in seen)
    tokens = sum(int(found.sequence_tokens.sum()) for found in seen)
    assert plan.padding == pytest.approx(
        0 if layout == "shared_prefix" else 1 - tokens / plan.positions
    )
    assert plan.largest <= 60


def test_batches_that_are_read_as_a_whole_are_not_cut(run):
    plan = preview(parse_arguments(run(neftune_noise_alpha=5.0, max_tokens_per_batch=20))).rows
    assert plan.limit is None
    assert plan.rows == plan.batches


def test_sorted_rows_have_less_padding_and_it_says_so(run, capsys):
    options = {"pair_layout": "padded", "per_device_train_batch_size": 12}
    arguments = run(**options, max_tokens_per_batch=120)
    plan = preview(parse_arguments(arguments)).rows
    assert 0 < plan.padding < plan.unsorted_padding
    text = " ".join(printed(run(**options, max_tokens_per_batch=120), capsys).split())
    assert f"rows: {plan.rows} in {plan.batches} batches of an epoch of at most 120 tokens" in text
    assert f"{plan.padding:.0%} padding, {plan.unsorted_padding:.0%} if they were not" in text


@pytest.mark.parametrize(
    "options", [{}, {"pair_layout": "padded"}, {"use_peft": True, "gradient_checkpointing": True}]
)
def test_one_row_is_really_run(run, options, capsys):
    found = preview(parse_arguments(run(**options)))
    assert found.measured.seconds > 0
    assert found.measured.positions <= found.rows.largest
    assert "time, measured: one row of " in printed(run(**options), capsys)


def test_a_row_that_would_take_too_long_or_too_much_memory_is_not_run(run, monkeypatch, capsys):
    monkeypatch.setattr(dry_rows, "MOST_SECONDS", 0.0)
    found = preview(parse_arguments(run())).measured
    assert found.seconds is None
    assert found.why_not.startswith("it would take about ")
    monkeypatch.setattr(dry_rows, "MOST_SECONDS", 20.0)
    monkeypatch.setattr(dry_rows, "free_memory", lambda device: 100_000)
    assert "GB are free here" in preview(parse_arguments(run())).measured.why_not
    assert "was not run: it takes about" in printed(run(), capsys)
