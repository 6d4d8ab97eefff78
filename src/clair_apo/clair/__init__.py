"""How preference pairs are made: minimal revisions of the target model's own answers (CLAIR).

The stages, in the order of the data; `generate` walks through all of them:

    prompts -> respond -> revise (templates, parse, edits, repair) -> pairs (gate, contrast)

`parse` reads replies with the help of `reply` (what stands around one), `sections` (tags),
`headings`, `edit_list` and `escapes`; `texts` says what of an answer becomes a side of a pair;
`gate` judges with the help of `wording`, `language` and `truncation`.

Loads no torch; knows nothing of training.
"""

from clair_apo.clair.config import GenerateConfig, PromptsConfig, RevisionConfig
from clair_apo.clair.filters.gate import DropCause, Gate, GateConfig, check_answer, check_reply
from clair_apo.clair.filters.text_checks import is_refusal, mention_of_revision
from clair_apo.clair.generate import Generated, generate
from clair_apo.clair.revision.edits import Edit, EditError, apply_edits
from clair_apo.clair.revision.parse import (
    ParsedEdits,
    ParsedRevision,
    ParseError,
    parse_edits,
    parse_revision,
)
from clair_apo.clair.revision.template import RevisionTemplate, load_template
from clair_apo.clair.stages.load import load_prompts
from clair_apo.clair.stages.pair import make_pair, measure_contrast
from clair_apo.clair.stages.respond import respond
from clair_apo.clair.stages.revise import REPAIRABLE, read_reply, repair_message, revise

__all__ = [
    "REPAIRABLE",
    "DropCause",
    "Edit",
    "EditError",
    "Gate",
    "GateConfig",
    "GenerateConfig",
    "Generated",
    "ParseError",
    "ParsedEdits",
    "ParsedRevision",
    "PromptsConfig",
    "RevisionConfig",
    "RevisionTemplate",
    "apply_edits",
    "check_answer",
    "check_reply",
    "generate",
    "is_refusal",
    "load_prompts",
    "load_template",
    "make_pair",
    "measure_contrast",
    "mention_of_revision",
    "parse_edits",
    "parse_revision",
    "read_reply",
    "repair_message",
    "respond",
    "revise",
]
