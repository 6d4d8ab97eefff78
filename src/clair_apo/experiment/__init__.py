"""Experiments: a grid of trainings over the same prompts, compared with intervals.

config     what an experiment is made of
cells      the cells: data sets x objectives x values x seeds
plan       the configs of the commands, for each data set and cell
data       makes the data sets over the same prompts, their reference, and what is advised
work       shares cells among processes and machines
training   trains, evaluates and tidies up one cell
choose     chooses betas and learning rates on the development prompts
measured   what a cell was measured to be, row by row
compare    means over seeds, and differences to the baseline
close      what all cells came to
record     `experiment.json`
table      the comparison for the terminal, Markdown and the page
run        goes through all of it
"""

from clair_apo.experiment.compare import Comparison, Estimate, difference
from clair_apo.experiment.config import ExperimentConfig
from clair_apo.experiment.measured import Measured, read_measured
from clair_apo.experiment.record import ExperimentRecord, read_record
from clair_apo.experiment.run import run_experiment

__all__ = [
    "Comparison",
    "Estimate",
    "ExperimentConfig",
    "ExperimentRecord",
    "Measured",
    "difference",
    "read_measured",
    "read_record",
    "run_experiment",
]
