"""Preference pairs that differ only in what matters, and objectives that say what to do with them.

The data goes one way, one room after the other:

    records, models   the vocabulary, and where a model's files are
    llm               how to ask a language model, behind a store that never asks twice
    clair             prompts -> responses -> minimal revisions -> preference pairs
    report            what the pairs look like, as a page
    apo               anchored training on the pairs
    demo              the whole arrow on an embedded model

`import clair_apo` loads none of them; import the room you need.
"""

from importlib.metadata import version

__version__ = version("clair-apo")
