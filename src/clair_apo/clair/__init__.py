"""Makes preference pairs: minimal revisions of the target model's own answers (CLAIR).

    generate.py       the path of a run through all stages
    config.py         what a run is told
    recipes.py        the recipes: which stages, and which texts become the sides of a pair
    setup.py          builds from the config what the stages work with
    prompt_state.py   a prompt with what the stages have made of it
    stages/           table.py lists them: load, respond, judge, revise, pair
    revision/         asks for a revision (template), reads the reply (parse), and applies it
    filters/          what makes no pair: texts, lengths, languages, prompts of test sets
    manifest.py       what a run writes down about itself; costs.py: its money
    planning/         what a run will ask and cost: estimate and pilot
    sharding.py       the parts of a run on several machines; merge.py joins them
    dataset.py        the splits, Parquet, and the hub

Loads no torch; knows nothing of training.
"""

from clair_apo.clair.config import GenerateConfig
from clair_apo.clair.filters.gate import Gate, GateConfig
from clair_apo.clair.generate import Generated, generate
from clair_apo.clair.recipes import RECIPES
from clair_apo.clair.revision.edits import Edit, apply_edits
from clair_apo.clair.revision.parse import parse_edits, parse_revision, parse_segments
from clair_apo.clair.revision.placed import EditError
from clair_apo.clair.revision.reply_parts import ParseError
from clair_apo.clair.revision.segments import SegmentChange, apply_segments
from clair_apo.clair.revision.template import load_template
from clair_apo.clair.stages.load import PromptsConfig, load_prompts
from clair_apo.clair.stages.pair import measure_contrast
from clair_apo.clair.stages.revise import read_reply

__all__ = [
    "RECIPES",
    "Edit",
    "EditError",
    "Gate",
    "GateConfig",
    "GenerateConfig",
    "Generated",
    "ParseError",
    "PromptsConfig",
    "SegmentChange",
    "apply_edits",
    "apply_segments",
    "generate",
    "load_prompts",
    "load_template",
    "measure_contrast",
    "parse_edits",
    "parse_revision",
    "parse_segments",
    "read_reply",
]
