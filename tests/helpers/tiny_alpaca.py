"""An AlpacaEval of twelve instructions, in the benchmark's own formats."""

import json
from pathlib import Path

import numpy as np

COUNT = 12
INSTRUCTIONS = [f"Write about the number {n}." for n in range(COUNT)]
DIFFICULTY = np.linspace(-1.5, 1.5, COUNT)
PREFERENCES = [1.1, 1.9, 1.2, 1.5, 2.0, 1.0, 1.7, 1.3, 1.6, 1.4, 1.8, 1.05]


def annotations(preferences=PREFERENCES, generator="tiny-model", step=17):
    """Rows of an annotation file; lengths of outputs vary with `step`."""
    return [
        {
            "instruction": instruction,
            "output_1": "b" * (200 + 10 * n),
            "generator_1": "baseline",
            "dataset": "own",
            "output_2": "m" * (100 + step * (n * 5 % COUNT)),
            "generator_2": generator,
            "annotator": "own",
            "preference": preference,
        }
        for n, (instruction, preference) in enumerate(zip(INSTRUCTIONS, preferences, strict=True))
    ]


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def write_outputs(path: Path) -> Path:
    """The baseline's outputs, in the reference order."""
    rows = [
        {"instruction": row["instruction"], "output": row["output_1"], "generator": "baseline"}
        for row in annotations()
    ]
    return write_json(path, rows)


def write_difficulty(path: Path) -> Path:
    lines = [f"{n},{value}" for n, value in enumerate(DIFFICULTY)]
    path.write_text("\n".join(["index,instruction_difficulty", *lines]) + "\n")
    return path


def gamed_lengths():
    """Of two gamed baselines: name, index, the baseline's length, the gamed one's, preference."""
    return [
        (name, n, 200 + 10 * n, factor * (200 + 10 * n) + 3 * n * n, share + 0.01 * n)
        for name, factor, share in (("concise", 0.3, 0.2), ("verbose", 1.5, 0.6))
        for n in range(COUNT)
    ]


def write_gamed(path: Path) -> Path:
    """Gamed rows with lengths."""
    header = "generator,index,length_baseline,length_model,preference_minus_one"
    lines = [",".join(str(value) for value in row) for row in gamed_lengths()]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def write_gamed_as_published(path: Path) -> Path:
    """The same rows with differences that are standardised already."""
    rows = gamed_lengths()
    lines = []
    for name in ("concise", "verbose"):
        own = [row for row in rows if row[0] == name]
        differences = np.asarray([row[2] - row[3] for row in own])
        terms = differences / differences.std(ddof=1)
        lines += [
            f"baseline_{name},{row[1]},{row[4]},{term!r},False,{DIFFICULTY[row[1]]}"
            for row, term in zip(own, terms.tolist(), strict=True)
        ]
    header = "model,index,preference,std_delta_len,not_gamed_baseline,instruction_difficulty"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def write_weights(path: Path, **models: tuple[float, float, float]) -> Path:
    header = ",np.tanh(std_delta_len),instruction_difficulty,not_gamed_baseline.astype(float)"
    lines = [f"{name},{a},{b},{c}" for name, (a, b, c) in models.items()]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path
