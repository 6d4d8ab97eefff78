"""Closes an experiment: what every cell came to, and how they compare."""

from collections.abc import Mapping, Sequence

from clair_apo.errors import DataError
from clair_apo.evaluation.figure_name import FigureName
from clair_apo.experiment.cells import Cell, candidates, chosen_cells, groups, tuned_groups
from clair_apo.experiment.choose import Choice
from clair_apo.experiment.compare import Group, compare, corrected_confidence, difference
from clair_apo.experiment.data import MadeData, losses
from clair_apo.experiment.measured import Measured, of_name, read_measured
from clair_apo.experiment.plan import ExperimentPlan, Step
from clair_apo.experiment.record import AnchorVerdict, CellState, ExperimentRecord
from clair_apo.experiment.work import is_done, read_outcome
from clair_apo.run_folder import RunFolder


def chosen_values(choices: Sequence[Choice]) -> dict[tuple[str, str], dict[str, object]]:
    """The chosen values by data set and objective."""
    return {(one.data, one.objective): one.chosen for one in choices if one.chosen is not None}


def close(
    plan: ExperimentPlan, data: Mapping[str, MadeData], choices: Sequence[Choice]
) -> ExperimentRecord:
    """What the experiment came to so far.

    Raises:
        RunError: a file of a cell cannot be read, or a figure of the config is of no cell.
    """
    config = plan.config
    tested = chosen_cells(config, chosen_values(choices))
    measured = [
        read_measured(plan, cell) for cell in tested if is_done(plan.outcome_file(cell, "test"))
    ]
    by_group: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        by_group.setdefault(one.cell.group, []).append(one)
    figures = [FigureName.parse(text) for text in config.figures]
    for one in measured[:1]:
        for figure in figures:
            of_name(one.views["last"], figure, "evaluate")
    views = max((len(one.views) for one in measured), default=1)
    confidence = corrected_confidence(len(groups(config)), len(figures), views)
    data_name, _, objective = config.baseline.partition("/")
    return ExperimentRecord(
        settings=plan.settings,
        base=plan.base,
        data=dict(data),
        choices=tuple(choices),
        cells=tuple(_states(plan, tested, measured)),
        figures=config.figures,
        baseline=config.baseline,
        confidence=confidence,
        comparisons=compare(by_group, figures, (data_name, objective), confidence),
        anchors=tuple(_verdicts(plan, data, by_group, figures[0])),
    )


def _states(
    plan: ExperimentPlan, tested: Sequence[Cell], measured: Sequence[Measured]
) -> list[CellState]:
    found = {one.cell: one for one in measured}
    states = [_state(plan, cell, "test", found.get(cell)) for cell in tested]
    tried = [
        cell for group in tuned_groups(plan.config) for cell in candidates(plan.config, *group)
    ]
    others = [cell for cell in tried if cell not in set(tested)]
    return states + [_state(plan, cell, "development", None) for cell in others]


def _state(plan: ExperimentPlan, cell: Cell, step: Step, measured: Measured | None) -> CellState:
    outcome = read_outcome(plan.outcome_file(cell, step))
    model = plan.cell_folder(cell).model
    training = RunFolder(model).manifest().get("stages", {}).get("train", {})
    return CellState(
        name=cell.name,
        data=cell.data,
        objective=cell.objective,
        values=dict(cell.values),
        seed=cell.seed,
        state=outcome.state if outcome else "open",
        why=outcome.why if outcome else "",
        steps=training.get("steps"),
        tokens=(training.get("lengths") or {}).get("separate_tokens"),
        alarms=tuple(alarm["name"] for alarm in training.get("alarms", ())),
        reference_computed=training.get("reference_computed"),
        checkpoints=measured.checkpoints if measured else None,
    )


def _verdicts(
    plan: ExperimentPlan,
    data: Mapping[str, MadeData],
    by_group: Mapping[tuple[str, str], Group],
    figure: FigureName,
) -> list[AnchorVerdict]:
    """What was advised, beside APO-zero minus APO-down; where the experiment has both."""
    by_loss = {tuple(losses(settings)): name for name, settings in plan.config.objectives.items()}
    zero, down = by_loss.get(("apo_zero",)), by_loss.get(("apo_down",))
    if zero is None or down is None:
        return []
    found = []
    for name, one in data.items():
        if one.advice is None:
            continue
        both = by_group.get((name, zero), ()), by_group.get((name, down), ())
        try:
            gap = difference(*both, "last", figure.name) if all(both) else None
        except DataError:
            gap = None
        interval = gap.over_prompts if gap else None
        favoured = None
        if interval and interval.low is not None and interval.high is not None:
            low, high = interval.low * figure.sign, interval.high * figure.sign
            favoured = "zero" if min(low, high) > 0 else "down" if max(low, high) < 0 else None
        verdict = "not shown"
        if favoured and one.advice in ("zero", "down"):
            verdict = "right" if favoured == one.advice else "wrong"
        found.append(
            AnchorVerdict(
                data=name,
                advice=one.advice,
                reason=one.reason,
                figure=figure.name,
                zero_minus_down=gap,
                verdict=verdict,
            )
        )
    return found
