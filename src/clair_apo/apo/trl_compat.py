"""Names of other libraries that are no promise of theirs, and that we use all the same."""

PRIVATE_NAMES = (
    "os._exit",
    "atexit._run_exitfuncs",
    "threading._shutdown",
    "trl.DPOTrainer._compute_loss",
    "trl.DPOTrainer._is_vlm",
    "trl.DPOTrainer._precompute_ref_logps",
    "trl.DPOTrainer._prepare_dataset",
    "trl.DPOTrainer._save_checkpoint",
    "trl.DPOTrainer._set_signature_columns_if_needed",
    "trl.DPOTrainer._signature_columns",
    "trl.DPOTrainer._tokenizer",
    "trl.data_utils._tokenize",
    "torch.nn.Module._forward_hooks",
    "torch.nn.Module._forward_pre_hooks",
    "torch.nn.modules.batchnorm._BatchNorm",
    "transformers.Trainer._get_collator_with_removed_columns",
    "transformers.Trainer._get_output_dir",
    "transformers.Trainer._prepare_inputs",
    "transformers.PreTrainedModel._can_set_attn_implementation",
    "transformers.PreTrainedModel._is_stateful",
    "transformers.PreTrainedModel._supports_attention_backend",
    "transformers.PreTrainedConfig._attn_implementation",
    "transformers.PreTrainedConfig._name_or_path",
    "torch.ops.aten._softmax_backward_data",
    "accelerate.state.GradientState._set_sync_gradients",
)
"""Every private name of another library that training calls or overrides, with its owner.

One test says which version lost one, another that none is missing here.
"""
