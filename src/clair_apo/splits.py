"""Which prompts are held out, and what the splits of a run's data set are called."""

DATASET = "dataset"
"""The folder in a run's folder that is its data set."""
SPLITS = ("train", "test")
SUFFIXES = (".parquet", ".jsonl")
"""Of a split that lies there twice the first is loaded."""


def is_held_out(prompt_id: str, fraction: float) -> bool:
    """Whether a prompt belongs to the held-out share of all possible prompts.

    The id's first 32 bits, read as a number from 0 to 1, lie below `fraction`. So the order and
    number of rows change nothing, recipes over the same prompts hold out the same ones, and a
    larger fraction holds out all that a smaller one does.

    Args:
        prompt_id: a digest in hex, as `records.prompt_id` makes it.
        fraction: from 0 (none) to 1 (all).
    """
    return int(prompt_id[:8], 16) / 2**32 < fraction
