"""What each revision format keeps of an answer, and what it costs: Markdown tables.

    python benchmarks/revision_formats.py                         (the demo's recording)
    python benchmarks/revision_formats.py --runs runs/full runs/edits runs/segments

Without `--runs` it measures the prompts of the demo's recording that have a revision in both
formats; the maintainers wrote both. With `--runs` it first says what became of the prompts of each
run folder and what its reviser was paid, and then pairs each two of them by prompt. Paired are all
replies that could be read, before the gate. Every figure has a 95 % interval (Student's t over
prompts); the last column is the difference within each prompt, second minus first.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from clair_apo.clair import GenerateConfig, ParseError, measure_contrast, read_reply
from clair_apo.clair.stages.pair import TOKENIZER
from clair_apo.demo.recording import read_recording
from clair_apo.files import read_jsonl
from clair_apo.llm import RequestStore, Spent
from clair_apo.records import (
    Contrast,
    Dropped,
    Record,
    Response,
    Revision,
    RevisionFormat,
    Stage,
)
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


def recorded(format: RevisionFormat) -> Side:
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


class Outcome(Record):
    """What became of the prompts of a run, and what its reviser was paid."""

    name: str
    kept: int
    dropped: dict[str, int]
    """By reason."""
    requests: int
    """To the reviser, those whose replies came to nothing included."""
    prompt_tokens: int
    completion_tokens: int

    @property
    def prompts(self) -> int:
        """Those that the run began with."""
        return self.kept + sum(self.dropped.values())


def outcome_of(path: Path) -> Outcome:
    """What became of a run folder's prompts; its request store tells what was paid."""
    manifest = RunFolder(path).manifest()
    config = GenerateConfig.model_validate(manifest["config"])
    assert config.reviser is not None
    with RequestStore(config.store_path) as store:
        spent = store.spent(manifest["run_id"])
    paid = spent.get(config.reviser.served_identity, Spent(0, 0, 0))
    return Outcome(
        name=config.revision.format,
        kept=manifest["counts"]["pairs"],
        dropped=manifest["counts"]["dropped"],
        requests=paid.answers,
        prompt_tokens=paid.prompt_tokens,
        completion_tokens=paid.completion_tokens,
    )


def outcomes(runs: Sequence[Outcome]) -> str:
    """The runs side by side, as Markdown: pairs, drops by reason, tokens of the reviser."""
    reasons = Counter[str]()
    for run in runs:
        reasons.update(run.dropped)
    rows: list[tuple[str, list[float]]] = [("**kept as pairs**", [run.kept for run in runs])]
    rows += [
        (name, [run.dropped.get(name, 0) for run in runs]) for name, _ in reasons.most_common()
    ]
    rows += [
        ("prompts", [run.prompts for run in runs]),
        ("requests to the reviser", [run.requests for run in runs]),
        ("tokens in", [run.prompt_tokens for run in runs]),
        ("tokens out", [run.completion_tokens for run in runs]),
        ("tokens out for each pair", [run.completion_tokens / max(run.kept, 1) for run in runs]),
    ]
    lines = ["| outcome | " + " | ".join(run.name for run in runs) + " |"]
    lines.append("|---|" + "---:|" * len(runs))
    lines += [f"| {title} | {' | '.join(f'{n:,.0f}' for n in row)} |" for title, row in rows]
    return "\n".join(lines)


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
    """Print the tables, and what could not be read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", type=Path, metavar="RUN")
    args = parser.parse_args()
    if args.runs and len(args.runs) < 2:
        parser.error("--runs: give two run folders or more")
    if args.runs:
        print(outcomes([outcome_of(path) for path in args.runs]))
    sides = [of_run(path) for path in args.runs or ()] or [recorded("full"), recorded("edits")]
    for first, second in combinations(sides, 2):
        print(f"\n{table(first, second)}")
    counted = "as each server counts" if args.runs else "of the embedded model, smollm2-135m"
    print(f"\nJaccard over {TOKENIZER}; output tokens {counted}.")
    for side in sides:
        print(f"{side.name}: {len(side.measured)} read, not read: {json.dumps(side.unread)}")


if __name__ == "__main__":
    main()
