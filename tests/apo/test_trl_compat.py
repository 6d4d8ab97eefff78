"""The parts of other libraries that training uses though they are no documented API."""

import ast
import importlib
import inspect
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import Trainer
from trl import DPOTrainer

import clair_apo
from clair_apo.apo import trl_compat
from clair_apo.apo.trainer import APOTrainer
from clair_apo.apo.trl_compat import IncompatibleLibraryError
from tests.helpers import ROOT as REPOSITORY
from tests.helpers.tiny_apo import make_model, make_rows
from tests.helpers.tiny_vlm import llava

ROOT = Path(clair_apo.__file__).parent
COMPAT = ROOT / "apo" / "trl_compat.py"
FILES = sorted(set(ROOT.rglob("*.py")) - {COMPAT})
LIBRARIES = ("accelerate", "datasets", "peft", "torch", "transformers", "trl")

DOCUMENTED = {
    "accelerate.utils",
    "torch.autograd.function",
    "torch.distributed.fsdp",
    "torch.nn",
    "torch.nn.attention.flex_attention",
    "torch.nn.functional",
    "torch.nn.utils.rnn",
    "torch.utils.data",
    "transformers.trainer_utils.EvalLoopOutput",
    "trl.scripts.utils.DatasetConfig",
    "transformers.utils.logging",
}
"""Modules and names that a library documents, though not at its top level."""

PUBLIC = {"_asdict", "_exit", "_fields", "_replace"}
"""Names that begin with an underscore and are documented by Python."""


# --- where they may be used


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def named_by_itself(tree):
    """What a file defines: functions, variables, fields, and what it sets on itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from [node.attr] if ast.unparse(node.value) == "self" else ()


def private_names_of_others(tree):
    """Private attributes of what the file does not define, read, set or asked for by name."""
    own = set(named_by_itself(tree)) | PUBLIC
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith("clair_apo"):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "hasattr",
            "setattr",
        ):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value):
                yield name.value


def internal_imports(tree):
    """Imports from a module of a library that neither documents it nor exports the name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.module.split(".")[0] not in LIBRARIES:
            continue
        library = importlib.import_module(node.module.split(".")[0])
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            if not hasattr(library, alias.name) and not {node.module, name} & DOCUMENTED:
                yield name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_uses_an_internal_part_of_a_library(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    overridden = set(trl_compat.OVERRIDES) if path.name in OVERRIDING else set()
    assert set(private_names_of_others(tree)) - overridden == set()
    assert list(internal_imports(tree)) == []


OVERRIDING = {"trainer.py"}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from trl.data_utils import _tokenize", "_tokenize"),
        ("model.config._attn_implementation", "_attn_implementation"),
        ("getattr(model, '_is_stateful', False)", "_is_stateful"),
        ("class A:\n    def f(self):\n        return self._prepare_inputs(1)", "_prepare_inputs"),
        ("from trl.trainer.utils import use_adapter", "trl.trainer.utils.use_adapter"),
    ],
)
def test_the_search_finds_what_it_is_for(code, found):
    tree = ast.parse(code)
    assert found in {*private_names_of_others(tree), *internal_imports(tree)}


def test_no_module_of_ours_is_imported_by_the_seam_but_the_errors():
    tree = ast.parse(COMPAT.read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if name.startswith("clair_apo")} == {"clair_apo.errors"}


# --- each part, in the installed version


@pytest.fixture(autouse=True)
def names_the_installed_versions(record_property):
    """A failure of a contract shows which versions broke it."""
    installed = {name: version(name) for name in LIBRARIES}
    record_property("installed", installed)
    yield
    sys.stdout.write(f"installed: {installed}\n")


@pytest.fixture
def trainer(config, model, pairs, tokenizer, tmp_path):
    args = config(precompute_ref_log_probs=False, max_length=None)
    return DPOTrainer(
        model, make_model(1), args=args, train_dataset=pairs, processing_class=tokenizer
    )


@pytest.mark.parametrize("name", trl_compat.OVERRIDES)
def test_what_the_trainer_overrides_is_a_method_of_trls(name):
    assert inspect.isfunction(vars(DPOTrainer)[name])


def test_trl_calls_the_overridden_methods_with_the_arguments_we_take():
    found = {name: inspect.signature(vars(DPOTrainer)[name]) for name in trl_compat.OVERRIDES}
    assert {name: list(signature.parameters)[1:] for name, signature in found.items()} == {
        "_precompute_ref_logps": ["dataset", "name", "batch_size"],
        "_prepare_dataset": ["dataset", "processing_class", "args", "dataset_name"],
        "_save_checkpoint": ["model", "trial"],
        "_set_signature_columns_if_needed": [],
    }


def test_tokenize_takes_messages_and_the_options_of_the_template(tokenizer):
    messages = [{"role": "user", "content": "w1 w2"}]
    found = trl_compat.tokenize(tokenizer, messages, add_generation_prompt=True, tools=None)
    assert tokenizer.decode(found["input_ids"]) == "<user> w1 w2 <eos> <assistant>"


def test_common_prefix_length_counts_equal_ids():
    assert trl_compat.common_prefix_length([1, 2, 3], [1, 2, 4, 5]) == 2


def test_fused_scores_are_those_of_the_whole_logits(model):
    ids = torch.arange(6, 12)[None]
    labels = ids.masked_fill(torch.arange(6) < 2, -100)
    trl_compat.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    found = trl_compat.fused_scores(model, {"input_ids": ids}, labels=labels)
    logps = model(ids).logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(found.log_probs[:, 1:], logps[:, 1:])
    assert found.entropy.shape == found.is_top1.shape == found.log_probs.shape == (1, 5)
    shifted = torch.cat([labels[:, 1:], torch.full((1, 1), -100)], 1)
    again = trl_compat.fused_scores(model, {"input_ids": ids}, shift_labels=shifted)
    torch.testing.assert_close(again.log_probs[:, 1:5], logps[:, 1:])


def test_log_probs_without_logits_are_those_of_the_whole_logits(model):
    head, labels = model.lm_head, torch.arange(4)
    states = torch.randn(4, head.in_features)
    outputs = trl_compat.ChunkedLogProbFunction.apply(
        states,
        head.weight,
        None,
        labels,
        1.0,
        trl_compat.CHUNK,
        3.0,
        0.5,
        trl_compat.OPTIONAL_OUTPUTS,
    )
    logps = (3 * torch.tanh(0.5 * head(states) / 3)).log_softmax(-1)
    torch.testing.assert_close(outputs[0], logps.gather(1, labels[:, None])[:, 0])
    torch.testing.assert_close(outputs[1], -(logps.exp() * logps).sum(1))
    assert torch.equal(outputs[4], logps.argmax(1) == labels)


def test_a_head_that_lies_here_is_whole(model):
    with trl_compat.gathered_head(model.lm_head.weight, None):
        weight, bias = trl_compat.whole_head(model.lm_head)
    assert weight is model.lm_head.weight
    assert bias is None


def test_use_adapter_switches_adapters_and_all_of_them_off(model):
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False))
    ids = torch.arange(6, 12)[None]
    adapted.eval()
    with torch.no_grad():
        on = adapted(ids).logits
        with trl_compat.use_adapter(adapted, None):
            off = adapted(ids).logits
        torch.testing.assert_close(adapted(ids).logits, on)
    assert not torch.allclose(on, off)


def test_gradient_checkpointing_is_off_inside_and_on_again_after(model):
    model.gradient_checkpointing_enable()
    with trl_compat.disable_gradient_checkpointing(model, None):
        assert not model.is_gradient_checkpointing
    assert model.is_gradient_checkpointing


def test_prepare_deepspeed_takes_a_model_and_an_accelerator():
    assert list(inspect.signature(trl_compat.prepare_deepspeed).parameters) == [
        "model",
        "accelerator",
    ]


def test_pairs_are_tokenized_without_a_trainer_as_with_one(trainer, tokenizer):
    rows = Dataset.from_list(make_rows(3))
    found = trl_compat.tokenized_pairs(rows, tokenizer, "some")
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert list(found[column]) == list(trainer.train_dataset[column])[:3]


def test_a_method_that_asks_its_trainer_for_more_is_named(tokenizer, monkeypatch):
    def later(self, dataset, processing_class, args, name):
        return self._something_new

    monkeypatch.setattr(DPOTrainer, "_prepare_dataset", later)
    with pytest.raises(IncompatibleLibraryError, match="_something_new"):
        trl_compat.tokenized_pairs(Dataset.from_list(make_rows(1)), tokenizer, "some")


def test_a_subclass_with_a_loss_of_its_own_is_known(trainer):
    class Mine(DPOTrainer):
        def _compute_loss(self, *args):
            pass

    assert not trl_compat.overrides_loss(trainer)
    assert trl_compat.overrides_loss(Mine.__new__(Mine))


def test_the_trainer_knows_that_a_tokenizer_sees_no_images(trainer):
    assert trl_compat.sees_images(trainer) is False


def test_columns_are_kept_in_what_the_loader_gives(trainer):
    trainer._set_signature_columns_if_needed()
    before = list(trainer._signature_columns)
    trl_compat.keep_columns(trainer, ("mine", before[0]))
    assert trainer._signature_columns == [*before, "mine"]
    assert "prompt_ids" in before


def test_fsdp_is_hidden_after_transformers_constructor_and_shown_after_trls(
    config, model, pairs, tokenizer, monkeypatch
):
    created, seen = Trainer.create_accelerator_and_postprocess, []

    def as_if_fsdp(self):
        created(self)
        self.is_fsdp_enabled = True

    def watches(self, dataset, name, batch_size):
        seen.append(self.is_fsdp_enabled)
        return dataset

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", as_if_fsdp)
    monkeypatch.setattr(DPOTrainer, "_precompute_ref_logps", watches)
    monkeypatch.setattr(trl_compat, "uses_fsdp", lambda accelerator: True)
    trainer = DPOTrainer.__new__(DPOTrainer)
    args = config(precompute_ref_log_probs=True, max_length=None)
    with trl_compat.fsdp_hidden(trainer, True) as callbacks:
        trainer.__init__(
            model, args=args, train_dataset=pairs, processing_class=tokenizer, callbacks=callbacks
        )
    assert seen == [False]
    assert trainer.ref_model is None, "TRL loads none by the policy's name"
    assert trainer.is_fsdp_enabled is True
    assert not set(callbacks) & set(trainer.callback_handler.callbacks)


def test_fsdp_is_left_alone_where_it_is_not_to_be_hidden():
    with trl_compat.fsdp_hidden(SimpleNamespace(is_fsdp_enabled=True), False) as callbacks:
        assert callbacks == []


def test_rotation_takes_the_arguments_we_give():
    given = {"output_dir", "save_total_limit", "best_model_checkpoint", "use_mtime"}
    assert given <= set(inspect.signature(trl_compat.rotate_checkpoints).parameters)


def test_batches_columns_and_folders_come_from_the_trainer(trainer, tmp_path):
    assert trl_compat.prepared_batch(trainer, {"a": torch.ones(1)})["a"].device.type
    assert trl_compat.checkpoints_folder(trainer, None) == str(tmp_path / "out")
    collate = trl_compat.known_columns_collator(trainer, lambda rows: rows)
    assert collate([{"prompt_ids": [1], "other": 2}]) == [{"prompt_ids": [1]}]


def test_what_transformers_says_of_devices_is_yes_or_no():
    assert trl_compat.is_deepspeed_zero3_enabled() is False
    assert isinstance(trl_compat.is_triton_available(), bool)


def test_repeated_heads_take_what_we_give():
    assert trl_compat.repeat_kv(torch.ones(1, 2, 3, 4), 3).shape == (1, 6, 3, 4)


def test_attentions_are_known_by_name(model):
    assert trl_compat.attention_name(model.config) == "sdpa"
    assert callable(trl_compat.attention_function("sdpa"))
    assert trl_compat.attention_function("eager") is None
    assert trl_compat.takes_attention(model) and not trl_compat.is_stateful(model)
    assert trl_compat.attention_names(model.config) == "sdpa"
    model.set_attn_implementation(trl_compat.attention_names(model.config))
    assert trl_compat.attention_name(model.config) == "sdpa"


def test_the_parts_of_a_model_keep_attentions_of_their_own():
    model = llava()
    model.set_attn_implementation({"": "sdpa", "text_config": "sdpa", "vision_config": "eager"})
    names = trl_compat.attention_names(model.config)
    model.set_attn_implementation("eager")
    assert trl_compat.attention_names(model.config) != names
    model.set_attn_implementation(names)
    assert trl_compat.attention_names(model.config) == names
    assert names == {"": "sdpa", "text_config": "sdpa", "vision_config": "eager"}


def test_accelerates_state_tells_what_we_ask():
    GradientState._reset_state()  # one for the process: trainings of other tests are in it
    accelerator = Accelerator(cpu=True)
    assert not trl_compat.is_spread(accelerator)
    assert trl_compat.active_loader(accelerator) is None
    assert trl_compat.is_last_batch(accelerator) is False


def test_loaders_of_several_processes_are_made_of_the_classes_we_look_for():
    sampler = torch.utils.data.BatchSampler(range(5), 2, False)
    shard = trl_compat.BatchSamplerShard(sampler, num_processes=2)
    assert (shard.drop_last, shard.even_batches, shard.batch_size) == (False, True, 2)
    assert (shard.split_batches, shard.num_processes) == (False, 2)
    assert issubclass(trl_compat.IterableDatasetShard, torch.utils.data.IterableDataset)


@pytest.mark.parametrize("deepspeed", [False, True])
def test_gradients_wait_inside_and_meet_again_after(deepspeed, model):
    accelerator = Accelerator(cpu=True)
    state = accelerator.gradient_state
    stand_in = SimpleNamespace(
        distributed_type="DEEPSPEED" if deepspeed else "NO",
        gradient_state=state,
        no_sync=accelerator.no_sync,
    )
    assert state.sync_gradients
    with trl_compat.unsynced(stand_in, model):
        assert state.sync_gradients is not deepspeed
    assert state.sync_gradients


def test_a_layer_tells_where_it_holds_its_adapters(model):
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
    assert "lora_A" in trl_compat.adapter_attributes(layer)
    assert isinstance(adapted.base_model, trl_compat.BaseTuner)
    assert trl_compat.adapter_prefix(adapted) == "lora_"
    assert trl_compat.is_peft_model(adapted) and not trl_compat.is_peft_model(make_model())
    assert trl_compat.WRAPPED[0] in dict(layer.named_children())


def test_what_an_adapter_puts_around_a_module_has_the_names_we_know(model):
    saved = get_peft_model(
        model, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    )
    assert any(name.endswith("lm_head.original_module") for name, _ in saved.named_modules())
    tied = make_model(tie_word_embeddings=True)
    options = LoraConfig(target_modules=["q_proj"], trainable_token_indices=[1])
    tokens = get_peft_model(tied, options)
    assert trl_compat.wraps_tokens(tokens.get_output_embeddings())
    assert any(".token_adapter" in name for name, _ in tokens.named_modules())


def test_a_learnt_prompt_is_known_to_be_on_or_off(model):
    prompted = get_peft_model(model, PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=2))
    assert not trl_compat.prompt_is_off(prompted)
    with prompted.disable_adapter():
        assert trl_compat.prompt_is_off(prompted)


def test_generating_with_an_adapter_leaves_no_trace_on_it(model):
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM"))
    ids = torch.arange(6, 12)[None]
    before = sorted(vars(adapted.base_model))
    adapted.generate(input_ids=ids, max_new_tokens=1)
    assert sorted(vars(adapted.base_model)) != before, "peft leaves none: drop no_trace_of_generate"
    vars(adapted.base_model).pop("prepare_inputs_for_generation")
    with trl_compat.no_trace_of_generate(adapted):
        adapted.generate(input_ids=ids, max_new_tokens=1)
    assert sorted(vars(adapted.base_model)) == before
    with trl_compat.no_trace_of_generate(model):
        model.generate(input_ids=ids, max_new_tokens=1)


def test_layers_with_statistics_over_batches_are_of_one_class():
    assert isinstance(nn.BatchNorm1d(2), trl_compat.BatchNorm)


def test_a_weak_dictionary_keeps_no_tensor_alive():
    known, key = trl_compat.WeakIdKeyDictionary(), torch.ones(2)
    known[key] = 1
    assert known.get(key) == 1
    del key
    assert len(known) == 0


def test_hooks_of_a_module_and_of_all_modules_are_seen():
    layer = nn.Linear(2, 2)
    assert trl_compat.forward_hooks(layer) == trl_compat.global_forward_hooks() == []

    def before(module, args):
        pass

    def after(module, args, output):
        pass

    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)
    assert set(trl_compat.forward_hooks(layer)) == {before, after}
    everywhere = nn.modules.module.register_module_forward_hook(after)
    try:
        assert trl_compat.global_forward_hooks() == [after]
    finally:
        everywhere.remove()


def test_the_backward_of_a_softmax_is_autograds():
    scores = torch.randn(2, 3, 5, requires_grad=True)
    shares, grad = scores.softmax(-1), torch.randn(2, 3, 5)
    (wanted,) = torch.autograd.grad(shares, scores, grad)
    trl_compat.softmax_backward_(grad, shares.detach())
    torch.testing.assert_close(grad, wanted)


def test_a_weight_on_one_process_is_whole():
    weight = torch.ones(2)
    assert not trl_compat.is_in_pieces(weight)
    assert trl_compat.whole_weight(weight) is weight


def test_a_weight_that_fsdp_spread_is_put_together():
    spread = SimpleNamespace(full_tensor=lambda: torch.ones(3))
    assert trl_compat.is_in_pieces(spread)
    assert len(trl_compat.whole_weight(spread)) == 3
    assert callable(torch.distributed.tensor.DTensor.full_tensor)


def test_exit_handlers_run_once_threads_are_done():
    code = (
        "import atexit, os, threading, time\n"
        "from clair_apo.apo.trl_compat import run_exit_handlers\n"
        "atexit.register(lambda: print('handler'))\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "run_exit_handlers()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["thread", "handler"]


# --- where one is missing


def test_a_missing_part_is_one_error_with_the_installed_version_and_the_tested_ones(monkeypatch):
    monkeypatch.setattr(trl_compat, "TESTED_TRL", ("1.2", "1.9"))
    with pytest.raises(IncompatibleLibraryError) as raised:
        trl_compat.internal("trl.data_utils", "_no_such_function")
    assert str(raised.value).startswith(
        f"trl {version('trl')} has no trl.data_utils._no_such_function, which training uses. It "
        "was tested with trl 1.2 to 1.9"
    )
    with pytest.raises(IncompatibleLibraryError, match=r"transformers \d.* has no .*\._gone"):
        trl_compat.member("transformers", SimpleNamespace(), "_gone")
    with pytest.raises(IncompatibleLibraryError, match=r"python 3\.\d+\.\d+ has no .*\._gone"):
        trl_compat.member("python", SimpleNamespace(), "_gone")


def test_a_missing_part_ends_the_command_with_status_2(tmp_path):
    code = (
        "import sys, trl.data_utils, trl.trainer.dpo_trainer\n"
        "del trl.data_utils._tokenize\n"
        "from clair_apo.cli import main\n"
        "sys.argv = ['clair-apo', 'train', '--config', 'none.yaml']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "has no trl.data_utils._tokenize" in done.stderr.splitlines()[-1]


def test_the_tested_versions_hold_the_installed_one():
    first, last = (tuple(map(int, part.split("."))) for part in trl_compat.TESTED_TRL)
    assert first <= tuple(map(int, version("trl").split(".")[:2])) <= last


@pytest.fixture
def unchecked():
    """The installed TRL was not looked at yet, and will be again after the test."""
    trl_compat.check_trl.cache_clear()
    yield
    trl_compat.check_trl.cache_clear()


@pytest.mark.parametrize("name", trl_compat.OVERRIDES)
def test_no_trainer_is_made_where_trl_lacks_a_method_that_ours_overrides(
    unchecked, monkeypatch, name
):
    others = {other: None for other in trl_compat.OVERRIDES if other != name}
    monkeypatch.setattr(trl_compat, "DPOTrainer", type("DPOTrainer", (), others))
    with pytest.raises(IncompatibleLibraryError, match=rf"has no DPOTrainer\.{name}"):
        APOTrainer("no-model")


@pytest.mark.parametrize("tested", [("1.2", "1.9"), ("7.0", "7.1")])
def test_a_trl_that_was_not_tested_is_warned_of_once(unchecked, monkeypatch, caplog, tested):
    monkeypatch.setattr(trl_compat, "TESTED_TRL", tested)
    trl_compat.check_trl()
    trl_compat.check_trl()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"trl {version('trl')} was not tested" in warning and f"=={tested[1]}.*" in warning


def test_a_tested_trl_is_not_spoken_of(unchecked, caplog):
    trl_compat.check_trl()
    assert not caplog.records


def test_pyproject_and_constraints_go_with_the_tested_versions():
    bounds = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    (trl,) = (bound for bound in bounds if bound.startswith("trl"))
    first, last = trl_compat.TESTED_TRL
    assert trl == f"trl>={first},<{int(last.split('.')[0]) + 1}"
    pins = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert any(pin.startswith(f"trl=={last}.") for pin in pins)


@pytest.mark.parametrize(
    ("status", "found"), [("0", None), ("3", 3), ("os.kill(os.getpid(), 9)", -9)]
)
def test_the_launcher_says_how_the_first_process_that_failed_ended(tmp_path, status, found):
    script = tmp_path / "child.py"
    script.write_text(f"import os, sys\nsys.exit({status})\n")
    options = ["--multi_gpu", "--num_machines", "1", "--main_process_port", "0"]
    plain = ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes", "2"]
    handler = signal.getsignal(signal.SIGINT)
    failed = trl_compat.run_in_processes([*options, *plain, str(script)])
    assert signal.getsignal(signal.SIGINT) is handler
    assert failed is None if found is None else failed is not None and failed[1] == found


def test_the_collator_of_pairs_pads_chosen_before_rejected():
    collate = trl_compat.pair_collator(pad_token_id=0, max_length=3, truncation_mode="keep_start")
    pair = {"prompt_ids": [5, 6], "chosen_ids": [7, 8], "rejected_ids": []}
    assert collate([pair])["input_ids"].tolist() == [[5, 6, 7], [5, 6, 0]]
