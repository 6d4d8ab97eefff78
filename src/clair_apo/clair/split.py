"""The pairs as a data set that others load: `train.jsonl` and `test.jsonl` in a folder.

`datasets.load_dataset(FOLDER)` and `trl dpo --dataset_name FOLDER` find both splits by their
names. A pair's split is its prompt's, by the rule that training holds pairs out by: with equal
fractions the test split is what `clair-apo train` would hold out of `pairs.jsonl`.
"""

from contextlib import ExitStack
from pathlib import Path

from clair_apo.files import atomic_writer, read_jsonl
from clair_apo.records import PreferencePair, Record
from clair_apo.splits import SPLITS, is_held_out


class SplitCounts(Record):
    """How many pairs each split holds."""

    train: int
    test: int


def write_splits(pairs: Path, folder: Path, test_size: float) -> SplitCounts:
    """Part `pairs.jsonl` into `train.jsonl` and `test.jsonl`, rows unchanged and in their order.

    A split without a pair has no file: an empty one cannot be loaded.

    Args:
        pairs: the file of pairs; read once, one row at a time.
        folder: made if need be; older splits in it are replaced.
        test_size: share of all possible prompts that goes to the test split, from 0 to below 1.

    Raises:
        DataError: `pairs` has a line that is no pair.
    """
    counts = dict.fromkeys(SPLITS, 0)
    files = {split: folder / f"{split}.jsonl" for split in counts}
    with ExitStack() as stack:
        out = {split: stack.enter_context(atomic_writer(file)) for split, file in files.items()}
        for pair in read_jsonl(pairs, PreferencePair):
            split = "test" if is_held_out(pair.id, test_size) else "train"
            out[split].write(pair.model_dump_json() + "\n")
            counts[split] += 1
    for split, count in counts.items():
        if not count:
            files[split].unlink()
    return SplitCounts(**counts)
