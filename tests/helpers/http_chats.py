"""HttpChat driven to its end, for the tests of llm/."""

import json
import threading
from contextlib import closing

from clair_apo.llm import ModelReply, ModelSpec
from clair_apo.llm.backends.http import HttpChat
from clair_apo.llm.pricing import Meter
from tests.helpers.chat_server import Asked, Reply, completion
from tests.helpers.llm_requests import ask_for


def spec_for(url: str, **changes: object) -> ModelSpec:
    settings = {"model": "the-model", "base_url": url, "api_key_env": "TEST_KEY", "timeout_s": 20}
    return ModelSpec(**settings | {"max_in_flight": 1} | changes)


def answers(
    spec: ModelSpec, *texts: str, meter: Meter | None = None, **sampling: float
) -> dict[str, ModelReply]:
    """Ask for each text and settle what comes, until all are answered."""
    with closing(HttpChat(spec, meter)) as chat:
        for text in texts:
            chat.submit(ask_for(text, **sampling))
        found: list[ModelReply] = []
        while len(found) < len(texts):
            found += (answered := chat.collect())
            chat.settle(len(answered))
    return {answered.request.messages[0].content: answered for answered in found}


def one_after_the_other(*replies: Reply):
    """Each reply once, the last one for good."""
    waiting, lock = list(replies), threading.Lock()

    def reply(_: Asked) -> Reply:
        with lock:
            return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return reply


def error(status: int, message: str = "later", **headers: str) -> Reply:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, body={"error": {"message": message}}, headers=headers)


def fine(**changes: object) -> Reply:
    """An answer of which some fields are others."""
    asked = Asked(0, 1, "id", {"model": "the-model", "messages": []}, {}, 0.0)
    return Reply(body=json.dumps(completion(asked, "hello", **changes)))
