"""Says how many cells there are, and with stated rates how long they take and what they cost."""

import math
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clair_apo.experiment.cells import candidates, groups, tuned_groups
from clair_apo.experiment.config import ExperimentConfig, RatesConfig
from clair_apo.experiment.plan import ExperimentPlan

_SECONDS = 3600.0


class Part(NamedTuple):
    """A part of an experiment."""

    name: str
    amount: str
    """How much of what, in words."""
    hours: float
    usd: float


class CellEstimate(NamedTuple):
    """What one cell takes that is trained and answers the test prompts."""

    training_hours: float
    evaluation_hours: float
    gigabytes: float
    """On the disk while it is at work: its checkpoints and its last model."""
    kept_gigabytes: float
    """Of that, what stays on the disk afterwards."""


class ExperimentEstimate(NamedTuple):
    """What an experiment takes."""

    cells: int
    """Trainings."""
    evaluated: int
    """Models that answer the test prompts, checkpoints included, beside the model before."""
    parts: tuple[Part, ...]
    """Empty without rates."""
    cell: CellEstimate | None
    """None without rates."""
    peak_gigabytes: float
    """On the disk, while the last cell is evaluated and no other is at work; 0 without rates."""
    source: str
    """Where the rates are from."""


def estimate(plan: ExperimentPlan) -> ExperimentEstimate:
    """Count the cells, and reckon with the rates of the config; asks and reads nothing else."""
    config, rates = plan.config, plan.config.rates
    tried = sum(len(candidates(config, *group)) for group in tuned_groups(config))
    # of each tuned group the chosen candidate is a cell of the first seed already
    cells = len(groups(config)) * len(config.seeds) + tried - len(tuned_groups(config))
    each = _checkpoints(plan) if plan.over_checkpoints else 1
    evaluated = len(groups(config)) * len(config.seeds) * each
    if rates is None:
        return ExperimentEstimate(cells, evaluated, (), None, 0.0, "")
    parts = _parts(plan, rates, cells, tried, evaluated)
    cell = _cell(plan, rates, each)
    peak = (cells - 1) * cell.kept_gigabytes + cell.gigabytes
    return ExperimentEstimate(cells, evaluated, parts, cell, peak, rates.source)


def _cell(plan: ExperimentPlan, rates: RatesConfig, evaluated: int) -> CellEstimate:
    """One cell, of which so many models answer the test prompts."""
    checkpoint = rates.model_gigabytes + rates.optimizer_gigabytes
    all_checkpoints = _kept_checkpoints(plan) * checkpoint
    stay = 0.0
    if plan.config.keep_weights:
        stay = rates.model_gigabytes
        if plan.over_checkpoints:
            stay += checkpoint if plan.drops_checkpoints else all_checkpoints
    return CellEstimate(
        training_hours=_training_seconds(plan, rates) / _SECONDS,
        evaluation_hours=evaluated * _answering_seconds(rates, rates.answers) / _SECONDS,
        gigabytes=rates.model_gigabytes + all_checkpoints,
        kept_gigabytes=stay,
    )


def _training_seconds(plan: ExperimentPlan, rates: RatesConfig) -> float:
    """Of a cell."""
    tokens = _pairs_seen(plan, rates.pairs) * rates.tokens_per_pair
    return tokens / rates.training_tokens_per_second


def _answering_seconds(rates: RatesConfig, answers: int) -> float:
    """Of a model that gives so many, from its start on."""
    tokens = answers * rates.tokens_per_answer
    return rates.start_seconds + tokens / rates.generated_tokens_per_second


def _parts(
    plan: ExperimentPlan, rates: RatesConfig, cells: int, tried: int, evaluated: int
) -> tuple[Part, ...]:
    made = sum(data.generate is not None for data in plan.config.data.values())
    seen = _pairs_seen(plan, rates.pairs)
    asked = evaluated + 1  # the model before the training is one of them
    answers = asked * rates.answers + tried * rates.development_answers

    def part(name: str, amount: str, seconds: float, paid: float) -> Part:
        hours = seconds / _SECONDS
        return Part(name, amount, hours, paid + hours * rates.usd_per_hour)

    prompts = made * rates.prompts
    return (
        part(
            "data",
            f"{made} data sets of {rates.prompts:,} prompts",
            prompts * rates.tokens_per_prompt / rates.generated_tokens_per_second,
            prompts * rates.usd_per_prompt,
        ),
        part(
            "training",
            f"{cells} cells of {seen:,} pairs",
            cells * _training_seconds(plan, rates),
            0.0,
        ),
        part(
            "evaluation",
            f"{answers:,} answers of {asked + tried:,} models",
            asked * _answering_seconds(rates, rates.answers)
            + tried * _answering_seconds(rates, rates.development_answers),
            answers * rates.usd_per_answer,
        ),
    )


def _step(plan: ExperimentPlan) -> int:
    """Pairs of a step."""
    training = plan.common_training
    processes = plan.config.num_processes or 1
    batch = int(training.get("per_device_train_batch_size", 8))
    return batch * int(training.get("gradient_accumulation_steps", 1)) * processes


def _pairs_seen(plan: ExperimentPlan, pairs: int) -> int:
    """By a cell, one that it sees twice counted twice."""
    steps = int(plan.common_training.get("max_steps", -1))
    if steps > 0:
        return steps * _step(plan)
    return math.ceil(pairs * float(plan.common_training.get("num_train_epochs", 3)))


def _checkpoints(plan: ExperimentPlan) -> int:
    """That a cell writes."""
    training = plan.common_training
    strategy = training.get("save_strategy", "steps")
    if strategy == "epoch":
        return math.ceil(float(training.get("num_train_epochs", 3)))
    if strategy == "no":
        return 1
    rates = plan.config.rates
    steps = _pairs_seen(plan, rates.pairs if rates else 1) / _step(plan)
    return max(1, math.ceil(steps / float(training.get("save_steps", 500))))


def _kept_checkpoints(plan: ExperimentPlan) -> int:
    """That lie on the disk together: those of one cell at most, the others are deleted."""
    limit = plan.common_training.get("save_total_limit")
    number = _checkpoints(plan)
    return number if limit is None else min(number, int(limit))


def estimate_table(config: ExperimentConfig, found: ExperimentEstimate) -> RenderableType:
    """The estimate for the terminal."""
    lines = [
        f"{found.cells} cells: {len(config.data)} data sets, {len(config.objectives)} objectives, "
        f"{len(config.seeds)} seeds; {found.evaluated} models answer the test prompts"
    ]
    if not found.parts:
        return Text(f"{lines[0]}; set rates, and this says how long it takes")
    table = Table(title=Text(lines[0]), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("part", "of", "hours", "USD"):
        table.add_column(column, justify="right" if column in ("hours", "USD") else "left")
    total = Part("sum", "", sum(p.hours for p in found.parts), sum(p.usd for p in found.parts))
    for part in (*found.parts, total):
        table.add_row(part.name, part.amount, f"{part.hours:,.1f}", f"{part.usd:,.2f}")
    return Group(table, Text("\n".join(_notes(found))))


def _notes(found: ExperimentEstimate) -> tuple[str, ...]:
    cell = found.cell
    assert cell is not None  # there are rates
    return (
        f"a cell: {cell.training_hours:,.1f} hours of training and {cell.evaluation_hours:,.1f} of "
        f"evaluation; {cell.gigabytes:,.0f} GB of disk while it is at work, "
        f"{cell.kept_gigabytes:,.0f} GB afterwards",
        f"disk: {found.peak_gigabytes:,.0f} GB at most, with one cell at work at a time",
        f"rates: {found.source}",
    )
