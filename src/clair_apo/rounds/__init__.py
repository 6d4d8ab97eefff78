"""Rounds: the model answers, its answers are revised, it is trained, and it answers again.

record     what the rounds came to, as `rounds.json` holds it
config     what a run of rounds is made of, and its rule to stop
plan       the configs of one round: each command's own, with what changes from round to round
run        goes through the rounds, writes down what each came to, and stops by the rule
table      the rounds for the terminal
"""

from clair_apo.rounds.config import RoundsConfig, StopConfig
from clair_apo.rounds.record import Round, RoundsRecord
from clair_apo.rounds.run import run_rounds

__all__ = ["Round", "RoundsConfig", "RoundsRecord", "StopConfig", "run_rounds"]
