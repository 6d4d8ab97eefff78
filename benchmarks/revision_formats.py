"""Whether `edits` keeps more of an answer than `full`, and what each costs: a Markdown table.

    python benchmarks/revision_formats.py                         (the demo's recording)
    python benchmarks/revision_formats.py --runs runs/full runs/edits

Without `--runs` it measures the prompts of the demo's recording that have a revision in both
formats; the maintainers wrote both. With `--runs` it pairs two run folders by prompt. Measured are
all replies that could be read, before the gate. Every figure has a 95 % interval (Student's t over
prompts); the last column is the difference within each prompt, second minus first.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from clair_apo.clair import ParseError, measure_contrast, read_reply
from clair_apo.clair.stages.pair import TOKENIZER
from clair_apo.demo.recording import read_recording
from clair_apo.files import read_jsonl
from clair_apo.records import Contrast, Dropped, Record, Response, Revision, Stage
from clair_apo.run_folder import RunFolder
from clair_apo.stats import Interval, mean_interval


class Measured(Record):
    """One revision beside the answer that it revises."""

    contrast: Contrast
    tokens: int
    """Output of the reviser, the reasoning included; summed where it was asked more than once."""


class Side(Record):
    """All revisions of one format, or of one run."""

    name: str
    measured: dict[str, Measured]
    """By prompt."""
    unread: dict[str, int]
    """Replies that made no revision, by reason."""


ROWS: tuple[tuple[str, Callable[[Measured], float], int], ...] = (
    ("Jaccard similarity", lambda m: m.contrast.jaccard, 3),
    ("Levenshtein distance, characters", lambda m: m.contrast.levenshtein, 0),
    ("... as a share of the longer text", lambda m: m.contrast.levenshtein_share, 3),
    ("length of the revision, characters", lambda m: m.contrast.chosen_characters, 0),
    ("output tokens", lambda m: m.tokens, 0),
)


def recorded(format: str) -> Side:
    """The demo's recording in one format, where the prompt has both."""
    measured, unread = {}, Counter[str]()
    for row in read_recording():
        if len(row.revisions) < 2:
            continue
        answer, reply = row.response.completion.text, row.revisions[format].completion
        try:
            text = read_reply(reply.text, answer, format).text
        except ParseError as error:
            unread[error.reason.value] += 1
            continue
        measured[row.prompt_id] = _measured(answer.strip(), text, reply.completion_tokens)
    return Side(name=format, measured=measured, unread=dict(unread))


def of_run(path: Path) -> Side:
    """All revisions of a run folder."""
    run = RunFolder(path)
    answers = {
        (row.prompt_id, row.sample): row.text
        for row in read_jsonl(run.file("responses.jsonl"), Response)
    }
    revisions = list(read_jsonl(run.file("revisions.jsonl"), Revision))
    dropped = read_jsonl(run.file("dropped.jsonl"), Dropped)
    return Side(
        name=f"{path.name} ({', '.join(sorted({row.format for row in revisions}))})",
        measured={
            row.prompt_id: _measured(
                answers[row.prompt_id, row.sample], row.text, row.completion_tokens
            )
            for row in revisions
        },
        unread=dict(Counter(row.reason.value for row in dropped if row.stage is Stage.REVISE)),
    )


def table(first: Side, second: Side) -> str:
    """Both sides over the prompts that each could read, as Markdown."""
    both = sorted(first.measured.keys() & second.measured.keys())
    if not both:
        raise SystemExit("no prompt has a revision on both sides")
    lines = [
        f"| n = {len(both)} prompts | {first.name} | {second.name} | difference |",
        "|---|---|---|---|",
    ]
    for title, value, digits in ROWS:
        one = [value(first.measured[id]) for id in both]
        two = [value(second.measured[id]) for id in both]
        change = [b - a for a, b in zip(one, two, strict=True)]
        cells = (_cell(one, digits), _cell(two, digits), _cell(change, digits, "+"))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measured(answer: str, revision: str, tokens: int) -> Measured:
    return Measured(contrast=measure_contrast(chosen=revision, rejected=answer), tokens=tokens)


def _cell(values: Sequence[float], digits: int, sign: str = "") -> str:
    found: Interval = mean_interval(values)
    spread = (
        f" [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
        if found.low is not None and found.high is not None
        else ""
    )
    return f"{found.mean:{sign}.{digits}f}{spread}"


def main() -> None:
    """Print the table, and what could not be read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs=2, type=Path, metavar=("FIRST", "SECOND"))
    args = parser.parse_args()
    sides = [of_run(path) for path in args.runs] if args.runs else map(recorded, ("full", "edits"))
    first, second = sides
    print(table(first, second))
    counted = "as each server counts" if args.runs else "of the embedded model, smollm2-135m"
    print(f"\nJaccard over {TOKENIZER}; output tokens {counted}.")
    for side in (first, second):
        print(f"{side.name}: {len(side.measured)} read, not read: {json.dumps(side.unread)}")


if __name__ == "__main__":
    main()
