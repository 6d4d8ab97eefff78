"""How much of a padded row is padding, in the order of the data and sorted by length: in tokens.

Pairs are as long as real ones (`pair_lengths.py`); nothing is trained and no time is measured.

    python benchmarks/padding.py --pairs 4096
"""

import argparse
from collections.abc import Callable, Sequence

from pair_lengths import real_lengths

from clair_apo.apo.forward.batching import alike_rows, cut

BATCHES = (4, 8, 16, 32, 64)
LIMITS = (4096, 16_384, 65_536)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    lengths = real_lengths(given.pairs, given.seed)
    sizes = [2 * (pair.prompt + max(pair.chosen, pair.rejected)) for pair in lengths]
    real = sum(2 * pair.prompt + pair.chosen + pair.rejected for pair in lengths)
    heads = "pairs in a batch", "tokens of a row", "rows, in order", "sorted", "padding", "sorted"
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for batch in BATCHES:
        for limit in LIMITS:
            plain = rows(sizes, batch, lambda part, most: cut(part, most, padded=True), limit)
            alike = rows(sizes, batch, alike_rows, limit)
            shares = (f"{1 - real / sum(found):.1%}" for found in (plain, alike))
            print(
                f"| {batch} | {limit:,} | {len(plain):,} | {len(alike):,} | {' | '.join(shares)} |"
            )


def rows(
    sizes: list[int],
    batch: int,
    cutter: Callable[[Sequence[int], int], Sequence[Sequence[int]]],
    limit: int,
) -> list[int]:
    """Tokens of every row, padding included."""
    parts = [sizes[first : first + batch] for first in range(0, len(sizes), batch)]
    return [
        len(row) * max(part[place] for place in row)
        for part in parts
        for row in cutter(part, limit)
    ]


if __name__ == "__main__":
    main()
