"""What a trained model says, and whether it got better: suites over models, with intervals.

config       what an evaluation is told
evaluate     runs the suites, and writes what they found
session      what suites work with: clients behind the store, budget, progress
held_out     the prompts or pairs; recorded reads answers given before
log_probs    log-probabilities under models in this process
suites/      base is their seam, figures are what they return; one module a suite
results      intervals and paired differences; tables writes them for people
"""

from clair_apo.evaluation.config import EvaluateConfig
from clair_apo.evaluation.evaluate import Evaluation, evaluate

__all__ = ["EvaluateConfig", "Evaluation", "evaluate"]
