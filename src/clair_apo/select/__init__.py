"""Keeps some of the pairs that there are: by a number, from one end, above a threshold, by source.

rule    which pairs are kept, as the command line says
values  the number of each pair
choose  which pairs a rule keeps, given their numbers
run     reads pairs, chooses, and writes what was kept and what was left out
table   the result for the terminal
"""

from clair_apo.select.rule import Rule
from clair_apo.select.run import Selection, select
from clair_apo.select.table import selection_table

__all__ = ["Rule", "Selection", "select", "selection_table"]
