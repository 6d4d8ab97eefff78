"""How to ask a language model: knows requests and answers, nothing of pairs or training.

ModelSpec -> StoredChat -> (RequestStore, else HttpChat | LocalChat | ScriptedChat) -> Answer
"""

from clair_apo.llm.ask import Answer, StoredChat, check_model
from clair_apo.llm.chat import (
    Answered,
    ChatModel,
    ChatRequest,
    Completion,
    ModelSpec,
    RawResponse,
    Sampling,
)
from clair_apo.llm.scripted import ScriptedChat
from clair_apo.llm.store import RequestStore
from clair_apo.llm.tables import StoredAnswer

__all__ = [
    "Answer",
    "Answered",
    "ChatModel",
    "ChatRequest",
    "Completion",
    "ModelSpec",
    "RawResponse",
    "RequestStore",
    "Sampling",
    "ScriptedChat",
    "StoredAnswer",
    "StoredChat",
    "check_model",
]
