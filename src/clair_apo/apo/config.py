"""The training arguments: TRL's, with APO-zero by default and with support for CPUs."""

import copy
import os
from dataclasses import MISSING, dataclass, field, fields
from typing import cast

import torch
from trl.trainer.dpo_config import DPOConfig

from clair_apo.apo.objectives import OBJECTIVES, SFT
from clair_apo.errors import ConfigError
from clair_apo.text.checks import load_checks

INITIAL, BASE = "initial", "base"
"""What `reference` can be besides a model."""
AUTO = "auto"
"""A `loss_type` that stands for what an advice says; a `max_tokens_per_batch` for what fits."""
SMOOTHED_BY_TRL = ("robust", "exo_pair", "aot", "aot_unpaired")
"""Losses for which TRL's own `label_smoothing` has a meaning."""
PAIR_LAYOUTS = ("auto", "shared_prefix", "padded")


@dataclass
class APOConfig(DPOConfig):
    """`trl.DPOConfig` with `apo_zero` by default, and with settings that work on CPUs too.

    It adds `pair_layout`, `max_tokens_per_batch`, `length_normalize`, `on_alarm`, `watch_prompts`,
    `watch_checks`, `reference` and `reference_cache`, and gives `label_smoothing` a meaning for
    `apo_down` and `sigmoid`. Where there is no accelerator it sets
    `use_cpu`; where `use_cpu` holds, `bf16` is off unless it was asked for (many CPUs can only
    emulate it) and several processes speak over `gloo` unless another `ddp_backend` was asked for.

    Raises:
        ConfigError: `apo_zero` or `apo_down` with an f-divergence other than reverse KL, a beta
            that is not above 0, `length_normalize` or `label_smoothing` beside something that they
            do not reach, `label_smoothing` with `apo_zero`, which it would only scale, or a
            `pair_layout`, `max_tokens_per_batch`, `on_alarm`, `watch_prompts` or `watch_checks`
            that cannot be.
    """

    loss_type: list[str] = field(
        default_factory=lambda: ["apo_zero"],
        metadata={
            "help": "One or several of TRL's losses. `apo_zero`: the chosen answers are better "
            "than the model's own. `apo_down`: the model's own are better. `sigmoid` is DPO. "
            "`auto`, in a config of `clair-apo train`, is what `advice` says."
        },
    )

    pair_layout: str = field(
        default="auto",
        metadata={
            "help": "`shared_prefix` computes what both answers of a pair begin with, their prompt "
            "above all, once, and packs pairs without padding; it refuses models and settings that "
            "it is not exact for. `padded` is TRL's way. `auto` takes the first where it can, and "
            "says in one line why where it cannot; where layers have a state or convolutions, it "
            "tries rows of whole sequences without padding first.",
            "choices": list(PAIR_LAYOUTS),
        },
    )
    max_tokens_per_batch: int | str | None = field(
        default=AUTO,
        metadata={
            "help": "Tokens, prompts included, that go through the model at a time: a batch with "
            "more is cut between pairs into rows, each with a forward and backward of its own. It "
            "bounds memory and changes no result. `auto` is 4,096 on a CPU, and on a CUDA device "
            "what half of its free memory holds. None never cuts."
        },
    )

    length_normalize: bool = field(
        default=False,
        metadata={
            "help": "Divide every log-ratio by its answer's tokens, so that long answers weigh no "
            "more than short ones. Rewards shrink with it: take a beta near 5."
        },
    )
    label_smoothing: float = field(
        default=0.0,
        metadata={
            "help": "The chance that the sides of a pair are swapped, below 0.5. With `apo_down` "
            "and `sigmoid` the loss of a pair is the mean of its loss and of that with the sides "
            "swapped, weighted by their chances. `apo_zero` refuses it: its gradient would be "
            "scaled and nothing else. In TRL's `robust`, `exo_pair`, `aot` and `aot_unpaired` it "
            "means what TRL says."
        },
    )
    on_alarm: str = field(
        default="warn",
        metadata={
            "help": "What happens when the metrics contradict the objective: `warn` says so, "
            "`stop` also saves a checkpoint and ends the run.",
            "choices": ["warn", "stop"],
        },
    )
    watch_prompts: int | None = field(
        default=None,
        metadata={
            "help": "Held-out prompts that the policy answers greedily at the start, at each "
            "evaluation and at the end. By default 8 where pairs are held out and the model can "
            "generate; 0 none."
        },
    )
    watch_checks: str | None = field(
        default=None,
        metadata={
            "help": "A YAML of checks, rules that code can decide; the share of watched answers "
            "that keeps to each is logged."
        },
    )
    reference: str = field(
        default="initial",
        metadata={
            "help": "The reference model. `initial`: the policy as it was passed, with the adapter "
            "it was passed with. `base`: the policy without its adapter. Anything else is a model: "
            "a folder, a hub name or smollm2-135m."
        },
    )
    reference_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for reference log-probabilities, shared by any number of runs; by "
            "default in the user's cache folder."
        },
    )
    precompute_ref_log_probs: bool | None = field(  # type: ignore[assignment] # None: as it fits
        default=None,
        metadata={
            "help": "Take reference log-probabilities from the cache, and compute what it lacks "
            "before training. By default wherever the data has a length; a stream asks the "
            "reference in every step."
        },
    )

    def __post_init__(self) -> None:
        """Choose what the machine can do, then let TRL check the rest."""
        # transformers renamed it, and warns of the name that trl still sets by default
        if getattr(self, "activation_checkpointing", None) is None:
            self.activation_checkpointing = self.gradient_checkpointing
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.use_cpu:
            self.bf16 = bool(self.bf16)
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # one process alone must not name one
                self.ddp_backend = self.ddp_backend or "gloo"
        super().__post_init__()  # type: ignore[no-untyped-call] # of trl
        self._check()
        if self.length_normalize:
            self._check_is_ours("length_normalize")

    def replace_auto(self, objective: str) -> None:
        """Put an objective in place of `auto`.

        Raises:
            ConfigError: the other settings do not go with it.
        """
        self.loss_type = [objective if name == AUTO else name for name in self.loss_type]
        self._check()

    def _check(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"beta must be above 0, got {self.beta}")
        if self.pair_layout not in PAIR_LAYOUTS:
            raise ConfigError(
                f"pair_layout must be one of {', '.join(PAIR_LAYOUTS)}, got {self.pair_layout!r}"
            )
        self._check_max_tokens_per_batch()
        if self.watch_prompts is not None and self.watch_prompts < 0:
            raise ConfigError(f"watch_prompts must be 0 or more, got {self.watch_prompts}")
        if self.watch_checks is not None:
            load_checks(self.watch_checks)
        if self.on_alarm not in ("warn", "stop"):
            raise ConfigError(f"on_alarm must be warn or stop, got {self.on_alarm!r}")
        check_label_smoothing(self)
        if self.label_smoothing and is_smoothed_here(self):
            self._check_is_ours("label_smoothing")
        anchored = [name for name in self.loss_type if name.startswith("apo_")]
        if anchored and self.f_divergence_type != "reverse_kl":
            raise ConfigError(
                f"loss_type {anchored[0]} is defined for f_divergence_type reverse_kl only, got "
                f"{self.f_divergence_type!r}"
            )

    def _check_max_tokens_per_batch(self) -> None:
        """Read a number that a command line gave as text, and refuse what is none."""
        asked = self.max_tokens_per_batch
        if asked is None or asked == AUTO:
            return
        if not str(asked).isdecimal() or int(asked) < 1:
            raise ConfigError(f"max_tokens_per_batch must be auto or at least 1, got {asked!r}")
        self.max_tokens_per_batch = int(asked)

    def _check_is_ours(self, option: str) -> None:
        """Refuse what TRL computes itself, without this option."""
        others = [name for name in self.loss_type if name not in (*OBJECTIVES, AUTO)]
        found = {
            f"loss_type {', '.join(others)}": others,
            f"f_divergence_type {self.f_divergence_type}": self.f_divergence_type != "reverse_kl",
            f"ld_alpha {self.ld_alpha}": self.ld_alpha is not None,
            "use_weighting": self.use_weighting,
        }
        for setting, there in found.items():
            if there:
                raise ConfigError(
                    f"{option} is for loss_type {', '.join(OBJECTIVES)} alone, not beside "
                    f"{setting}; leave one of them out"
                )


def is_smoothed_here(args: DPOConfig) -> bool:
    """Whether `label_smoothing` means what `APOConfig` says, not what a loss of TRL's says."""
    return not set(args.loss_type) & set(SMOOTHED_BY_TRL)


def check_label_smoothing(args: DPOConfig) -> None:
    """Refuse a `label_smoothing` that would do nothing, or nothing but scale the loss.

    Args:
        args: of a run; those of TRL's own smoothed losses are left to TRL.

    Raises:
        ConfigError: says what to set instead.
    """
    chance = args.label_smoothing
    if not chance or not is_smoothed_here(args):
        return
    if not 0 < chance < 0.5:
        raise ConfigError(f"label_smoothing must be from 0 to below 0.5, got {chance}")
    if "apo_zero" in args.loss_type:
        raise ConfigError(
            f"label_smoothing would multiply apo_zero's gradient by {1 - 2 * chance:g} and do "
            "nothing else: with the sides swapped the loss pulls as hard the other way. Leave it "
            "out; loss_weights scales a loss, a column `weight` the pairs that you doubt"
        )
    if set(args.loss_type) == {SFT}:
        raise ConfigError("label_smoothing does nothing to sft, which knows one side; leave it out")


def as_apo_config(args: DPOConfig) -> APOConfig:
    """Settings with every field of an `APOConfig`; those of a plain `DPOConfig` stay as they are.

    Args:
        args: an `APOConfig` is returned itself. Of a `DPOConfig` a copy is, with the fields that
            it lacks at their defaults; nothing else of it is changed or checked again.
    """
    missing = [own for own in fields(APOConfig) if not hasattr(args, own.name)]
    if missing:
        args = copy.copy(args)
    for own in missing:
        default = own.default if own.default_factory is MISSING else own.default_factory()
        setattr(args, own.name, default)
    return cast(APOConfig, args)
