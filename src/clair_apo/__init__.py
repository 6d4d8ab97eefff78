"""Makes preference pairs that differ only in what matters, and trains models on them.

Packages, in the order in which data passes through them:

    ingest    foreign rows -> prompts and answers
    llm       asks language models, behind a store that never asks twice
    clair     prompts -> responses -> minimal revisions -> preference pairs
    lint      looks over pairs, ours or anybody's
    report    pages about the pairs and about trainings
    apo       anchored training on the pairs
    evaluation  what trained models answer, with intervals
    demo      all of it on an embedded model
    text      what code alone can say of an answer

Modules that they share:

    records         what a prompt, a response, a revision and a preference pair are
    models          a model's name -> its files
    run_folder      the folder of a run: its files, its manifest
    config          YAML files and command-line options
    files           JSONL, written whole or not at all
    verification    what a judge found that verified pairs
    stats           means, shares and differences with their intervals
    alignment       two texts side by side
    console         progress and remarks
    output_streams  standard output and error that may fail
    errors          the errors that a user can mend
    cli             the command line

`import clair_apo` loads none of them: import the package that you need.
"""

from importlib.metadata import version

__version__ = version("clair-apo")
