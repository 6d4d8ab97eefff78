"""Renders a dry run for the terminal."""

from collections import Counter
from collections.abc import Iterator

from rich.console import Group
from rich.filesize import decimal
from rich.table import Table

from clair_apo.apo.dry_run.estimate import UTILISATION, TrainingEstimate
from clair_apo.apo.dry_run.rows import MeasuredRow, RowPlan
from clair_apo.apo.dry_run.run import DryRun, PairProblem
from clair_apo.apo.lengths import PairLengths

MOST_SHOWN = 10
"""Pairs listed for each kind of problem at most."""


def dry_run_text(run: DryRun) -> Group:
    """Show a dry run: counts, lengths, problems pair by pair, memory and time."""
    parts: list[Table | str] = [_counts(run)]
    if run.lengths is not None:
        parts += [_lengths_table(run.lengths), *_lengths_lines(run.lengths)]
    parts.append(f"pair layout: {run.layout}")
    if run.rows is not None:
        parts.append(_rows_line(run.rows))
    parts += _problem_lines(run.problems)
    if run.estimate is not None:
        parts += _estimate_lines(run.estimate)
    if run.rows is not None and run.measured is not None:
        parts.append(_measured_line(run.rows, run.measured))
    if run.watched:
        parts.append(
            f"watched answers: {run.watched} held-out prompts, at the start, at each evaluation "
            "and at the end (watch_prompts); not in the time above"
        )
    return Group(*parts)


def _counts(run: DryRun) -> str:
    out = [f"{run.trained} to train on", f"{run.held_out} held out"]
    if run.beyond_max_pairs:
        out.append(f"{run.beyond_max_pairs} beyond max_pairs")
    return f"{run.pairs} pairs = {' + '.join(out)}"


def _lengths_table(lengths: PairLengths) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(f"tokens, n = {lengths.pairs:,}", no_wrap=True)
    for name in ("least", "median", "95%", "most", "mean"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in ("prompt", "chosen", "rejected"):
        found = getattr(lengths, part)
        whole = (found.minimum, found.median, found.q95, found.maximum)
        table.add_row(part, *(f"{value:,}" for value in whole), f"{found.mean:,.1f}")
    return table


def _lengths_lines(lengths: PairLengths) -> Iterator[str]:
    truncated = lengths.truncated_chosen + lengths.truncated_rejected
    yield (
        f"truncated: {lengths.truncated_chosen} chosen and {lengths.truncated_rejected} rejected "
        f"answers lose {lengths.cut_tokens:,} tokens"
        if truncated
        else "truncated: no answer"
    )
    yield (
        f"sharing what both answers begin with: {lengths.tree_tokens:,} tokens instead of "
        f"{lengths.separate_tokens:,}, {lengths.saved_share:.0%} saved"
    )


def _rows_line(plan: RowPlan) -> str:
    of = "" if plan.limit is None else f" of at most {plan.limit:,} tokens (max_tokens_per_batch)"
    padding = (
        f"{plan.padding:.0%} padding, {plan.unsorted_padding:.0%} if they were not sorted by length"
        if plan.padding
        else "no padding"
    )
    return (
        f"rows: {plan.rows:,} in {plan.batches:,} batches of an epoch{of}, the largest of "
        f"{plan.largest:,}; {padding}"
    )


def _measured_line(plan: RowPlan, row: MeasuredRow) -> str:
    what = f"one row of {row.pairs} pairs, {row.positions:,} tokens"
    if row.seconds is None:
        return f"time, measured: not, {what} was not run: {row.why_not}"
    epoch = row.seconds * plan.positions / row.positions
    return (
        f"time, measured: {what}, took {row.seconds:.2g} s forward and backward with random "
        f"weights; at that pace an epoch takes {_duration(epoch)} on one device, without "
        "reference and optimizer"
    )


def _problem_lines(problems: tuple[PairProblem, ...]) -> Iterator[str]:
    if not problems:
        yield "problems: none"
    kinds = Counter((not problem.stops, problem.what) for problem in problems)
    for kind, count in sorted(kinds.items()):
        goes_on, what = kind
        ids = [p.id for p in problems if (not p.stops, p.what) == kind]
        more = f" and {count - MOST_SHOWN} more" if count > MOST_SHOWN else ""
        weight = "worth a look" if goes_on else "training would stop"
        yield f"{weight}: {count} pairs: {what}\n  {', '.join(ids[:MOST_SHOWN])}{more}"


def _estimate_lines(found: TrainingEstimate) -> Iterator[str]:
    optimizer = "unknown" if found.optimizer is None else decimal(found.optimizer)
    yield (
        f"memory, estimated: {decimal(found.memory)} = weights {decimal(found.weights)} + "
        f"gradients {decimal(found.gradients)} + optimizer {optimizer} + reference "
        f"{decimal(found.reference)} + activations {decimal(found.activations)}"
    )
    yield f"  {found.parameters:,} parameters, {found.trained:,} of them trained"
    yield (
        f"time, estimated: {_duration(found.seconds)} for {found.steps} steps, at "
        f"{UTILISATION:.0%} of the {found.rate / 1e9:,.0f} GFLOP/s that matrix products reach "
        "here now"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
