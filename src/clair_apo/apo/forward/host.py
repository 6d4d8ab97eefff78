"""What the parts of a trainer read from it."""

from typing import Any, Protocol


class Host(Protocol):
    """A trainer, once its constructor is done.

    Parts that are handed one read it anew each time: models are wrapped when training begins, a
    reference is let go, the state is another one where a run is resumed.
    """

    args: Any
    """An `APOConfig`."""
    accelerator: Any
    state: Any
    """A `TrainerState`."""
    model: Any
    """The policy; under FSDP wrapped from the beginning of training on."""
    model_wrapped: Any
    """The policy as a training step calls it."""
    ref_model: Any
    """A reference of its own; None where the policy is asked."""
    train_dataset: Any
    data_collator: Any
