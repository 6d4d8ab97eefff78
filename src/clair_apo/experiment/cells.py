"""The cells of an experiment: which there are, and what they are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clair_apo.experiment.config import ExperimentConfig

_SHORT = {"beta": "beta", "learning_rate": "lr"}

Choices = Mapping[tuple[str, str], Mapping[str, Any]]
"""The chosen values by data set and objective."""


@dataclass(frozen=True)
class Cell:
    """One training: an objective on a data set, with its values and a seed.

    Attributes:
        data: the data set's name.
        objective: the objective's name.
        values: of `beta` and `learning_rate`, those that the objective names.
        seed: of the training.
    """

    data: str
    objective: str
    values: tuple[tuple[str, Any], ...]
    seed: int

    @property
    def name(self) -> str:
        """Such as `clair.apo_zero.beta0.1.seed0`; of its folder, and of its model."""
        values = [f"{_SHORT[key]}{value:.12g}" for key, value in self.values]
        return ".".join([self.data, self.objective, *values, f"seed{self.seed}"])

    @property
    def group(self) -> tuple[str, str]:
        """What it shares with the cells of other seeds."""
        return self.data, self.objective


def _cell(data: str, objective: str, values: Mapping[str, Any], seed: int) -> Cell:
    return Cell(data, objective, tuple((key, float(value)) for key, value in values.items()), seed)


def groups(config: ExperimentConfig) -> list[tuple[str, str]]:
    """Every data set with every objective."""
    return [(data, objective) for data in config.data for objective in config.objectives]


def tuned_groups(config: ExperimentConfig) -> list[tuple[str, str]]:
    """Those for which values are chosen."""
    tuned_on = config.choose.data if config.choose else None
    return [
        (data, objective)
        for data, objective in groups(config)
        if len(config.values_of(objective)) > 1 and tuned_on in (None, data)
    ]


def candidates(config: ExperimentConfig, data: str, objective: str) -> list[Cell]:
    """The cells among which values are chosen, in the order of the config."""
    values = config.values_of(objective)
    return [_cell(data, objective, one, config.seeds[0]) for one in values]


def chosen_cells(config: ExperimentConfig, choices: Choices) -> list[Cell]:
    """The cells that answer the test prompts, of the groups that have their values.

    Args:
        config: the experiment.
        choices: of the groups that are tuned; others have one value each.
    """
    found = []
    for data, objective in groups(config):
        values = values_of_group(config, choices, data, objective)
        if values is not None:
            found += [_cell(data, objective, values, seed) for seed in config.seeds]
    return found


def values_of_group(
    config: ExperimentConfig, choices: Choices, data: str, objective: str
) -> Mapping[str, Any] | None:
    """The values that a group is trained with; None where none could be chosen."""
    possible = config.values_of(objective)
    if len(possible) == 1:
        return possible[0]
    tuned_on = (config.choose.data if config.choose else None) or data
    return choices.get((tuned_on, objective))


def names(cells: Sequence[Cell]) -> list[str]:
    """The names of cells."""
    return [cell.name for cell in cells]
