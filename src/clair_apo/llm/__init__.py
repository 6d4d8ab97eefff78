"""How to ask a language model: knows requests and answers, nothing of pairs or training.

Dialogue -> StoredChat -> (RequestStore, else HttpChat | LocalChat | ScriptedChat) -> Answer
"""

from clair_apo.llm.backends.scripted import ScriptedChat
from clair_apo.llm.client import StoredChat, check_model
from clair_apo.llm.pricing import Meter
from clair_apo.llm.scheduler import told_of_errors
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
    "StoredChat",
    "check_model",
    "told_of_errors",
]
