"""The whole pipeline on the embedded model, from recorded answers to a trained checkpoint.

    recording    the shipped answers -> the request store
    run          generate -> report -> train -> evaluate on held-out prompts
    verdict      what the evaluation's table says, in words

`data/` holds the prompts, the rubric, its checks and the recording; the two YAML files are
ordinary configs.
"""

from clair_apo.demo.recording import fill_store, read_recording
from clair_apo.demo.run import demo_config, run_demo

__all__ = ["demo_config", "fill_store", "read_recording", "run_demo"]
