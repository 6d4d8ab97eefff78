"""How to ask a language model: knows requests and answers, nothing of pairs or training.

Dialogue -> StoredChat -> (RequestStore, else HttpChat | LocalChat | ScriptedChat) -> Answer
"""

from clair_apo.llm.backends.scripted import ScriptedChat
from clair_apo.llm.client import CachedChat, check_model
from clair_apo.llm.pricing import Meter
from clair_apo.llm.scheduler import propagate_errors_to
from clair_apo.llm.spec import ModelSpec
from clair_apo.llm.store import RequestStore
from clair_apo.llm.store_schema import Spent, StoredAnswer
from clair_apo.llm.types import (
    Answer,
    Answered,
    ChatModel,
    ChatRequest,
    Completion,
    Dialogue,
    RawResponse,
)
from clair_apo.records import Sampling

__all__ = [
    "Answer",
    "Answered",
    "CachedChat",
    "ChatModel",
    "ChatRequest",
    "Completion",
    "Dialogue",
    "Meter",
    "ModelSpec",
    "RawResponse",
    "RequestStore",
    "Sampling",
    "ScriptedChat",
    "Spent",
    "StoredAnswer",
    "check_model",
    "propagate_errors_to",
]
