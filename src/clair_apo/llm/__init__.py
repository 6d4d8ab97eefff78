"""Asks language models behind a store that never asks twice; knows no pairs and no training.

Dialogue -> CachedChat -> RequestStore, else a model of `backends` -> Answer

    types             requests, answers, dialogues, and what a model is
    spec              which model to ask, where, and at what price
    client            CachedChat, the way to ask
    answer_cache      the store in front of one model: finds, keeps, counts
    scheduler         dialogues in waves, or side by side
    store             RequestStore; store_file, store_schema and store_checksums are below it
    pricing           prices, budget, counts
    responses         reads chat completions; endings and thinking are parts of that
    judge             a model that compares answers
    token_count       tokens before anything is asked
    model_names       is the model that answered the one that was asked?
    secrets           masks keys
    backends/         servers, batches, a model in this process, a script
"""

from clair_apo.llm.backends.scripted import FunctionChat, ScriptedChat
from clair_apo.llm.client import CachedChat, check_model
from clair_apo.llm.pricing import Meter
from clair_apo.llm.scheduler import propagate_errors_to
from clair_apo.llm.spec import ModelSpec, RewardSpec
from clair_apo.llm.store import RequestStore
from clair_apo.llm.store_schema import Spent, StoredAnswer
from clair_apo.llm.types import (
    Answer,
    ChatModel,
    ChatRequest,
    Completion,
    Dialogue,
    ModelReply,
    RawResponse,
)
from clair_apo.records import Sampling

__all__ = [
    "Answer",
    "CachedChat",
    "ChatModel",
    "ChatRequest",
    "Completion",
    "Dialogue",
    "FunctionChat",
    "Meter",
    "ModelReply",
    "ModelSpec",
    "RawResponse",
    "RequestStore",
    "RewardSpec",
    "Sampling",
    "ScriptedChat",
    "Spent",
    "StoredAnswer",
    "check_model",
    "propagate_errors_to",
]
