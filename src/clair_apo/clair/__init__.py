"""How preference pairs are made: minimal revisions of the target model's own answers (CLAIR).

The stages, in the order of the data; `generate` walks through all of them:

    prompts -> respond -> revise (templates, parse, edits) -> pairs (gate, contrast)

Loads no torch; knows nothing of training.
"""

from clair_apo.clair.config import GenerateConfig, PromptsConfig, RevisionConfig
from clair_apo.clair.contrast import measure_contrast
from clair_apo.clair.edits import Edit, EditError, apply_edits
from clair_apo.clair.gate import is_refusal, judge_answer, judge_reply, judge_revision
from clair_apo.clair.generate import Generated, generate
from clair_apo.clair.pairs import make_pair
from clair_apo.clair.parse import (
    ParsedEdits,
    ParsedRevision,
    ParseError,
    parse_edits,
    parse_revision,
)
from clair_apo.clair.prompts import load_prompts
from clair_apo.clair.respond import respond
from clair_apo.clair.revise import read_reply, revise
from clair_apo.clair.templates import RevisionTemplate, load_template

__all__ = [
    "Edit",
    "EditError",
    "GenerateConfig",
    "Generated",
    "ParseError",
    "ParsedEdits",
    "ParsedRevision",
    "PromptsConfig",
    "RevisionConfig",
    "RevisionTemplate",
    "apply_edits",
    "generate",
    "is_refusal",
    "judge_answer",
    "judge_reply",
    "judge_revision",
    "load_prompts",
    "load_template",
    "make_pair",
    "measure_contrast",
    "parse_edits",
    "parse_revision",
    "read_reply",
    "respond",
    "revise",
]
