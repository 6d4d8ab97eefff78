"""A second author who follows the house style, and has habits of its own that no rule mentions."""

import re
from collections.abc import Iterator, Sequence

from clair_apo.llm import ChatModel, ChatRequest, ModelReply
from clair_apo.llm.backends.local import LocalChat
from clair_apo.models import find_model
from clair_apo.records import Message
from clair_apo.text.repetition import sentences
from controlled.house_style import LAST_LINE, MOST, restyled

PERSONA = "You are a cheerful teacher. You speak of yourself and the reader as we."


def with_habits(answer: str) -> str:
    """An answer in the house style, in an excited voice that speaks of us."""
    body = restyled(answer).removesuffix(LAST_LINE).rstrip()
    body = re.sub(r"(?<=\w)\.(?=\s|\Z)", "!", body)
    for you, we in (("your", "our"), ("Your", "Our"), ("you", "we"), ("You", "We")):
        body = re.sub(rf"\b{you}\b", we, body)
    return f"{body}\n\n{LAST_LINE}"


class OtherWriter(ChatModel):
    """The embedded model under another persona, put into the house style.

    Its answers are unrelated to those of the model in training, and follow every rule. It writes
    half as many tokens as it is allowed.
    """

    def __init__(self, model: str) -> None:
        self._model, self._chat = model, None

    def _loaded(self) -> LocalChat:
        if self._chat is None:
            self._chat = LocalChat(find_model(self._model))
        return self._chat

    def plan(self, requests: Sequence[ChatRequest]) -> list[Sequence[ChatRequest]]:
        """Divide as the embedded model does."""
        own = {self._asked(request).key: request for request in requests}
        groups = self._loaded().plan([self._asked(request) for request in requests])
        return [[own[asked.key] for asked in group] for group in groups]

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        """Answer in the other voice."""
        own = {self._asked(request).key: request for request in requests}
        for replies in self._loaded().answer([self._asked(request) for request in requests]):
            yield [self._in_voice(own[reply.request.key], reply) for reply in replies]

    @staticmethod
    def _asked(request: ChatRequest) -> ChatRequest:
        turns = (Message(role="system", content=PERSONA), *request.messages)
        # an answer as long as the request allows counts as cut short, and five sentences are kept
        half = request.sampling.max_tokens // 2
        sampling = request.sampling.model_copy(update={"max_tokens": half})
        return request.model_copy(update={"messages": turns, "sampling": sampling})

    @staticmethod
    def _in_voice(request: ChatRequest, reply: ModelReply) -> ModelReply:
        if reply.response is None:
            return ModelReply(request, None, reply.failure)
        choice = reply.response["choices"][0]
        answer = choice["message"]["content"]
        written = {"message": choice["message"] | {"content": with_habits(answer)}}
        if len(sentences(answer)) > MOST:  # what the limit cut short is not kept
            written["finish_reason"] = "stop"
        response = reply.response | {"choices": [choice | written]}
        return ModelReply(request, response)
