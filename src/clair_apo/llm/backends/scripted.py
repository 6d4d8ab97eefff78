"""Models that are no models: a function or a list answers, for programs, trials and tests."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from clair_apo.errors import RequestError
from clair_apo.llm.types import ChatModel, ChatRequest, Completion, ModelReply


class ScriptedChat(ChatModel):
    """A model that answers requests in order with the given completions.

    Args:
        script: one text (finish reason `stop`) or one `Completion` for each expected request.

    Attributes:
        requests: every request that was asked, in order.
    """

    def __init__(self, script: Iterable[str | Completion]) -> None:
        self._script = iter(script)
        self.requests: list[ChatRequest] = []

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        """Answer each request with the next line of the script.

        Raises:
            RequestError: the script has run out.
        """
        for request in requests:
            line = next(self._script, None)
            if line is None:
                raise RequestError(f"the script has run out after {len(self.requests)} answers")
            self.requests.append(request)
            if isinstance(line, str):
                words = len(line.split())
                line = Completion(
                    text=line, finish_reason="stop", prompt_tokens=0, completion_tokens=words
                )
            yield [ModelReply(request, line.to_response(request.model))]


class FunctionChat(ChatModel):
    """A model whose answers a function writes: a reviser or judge that is a program.

    Answers go through the request store like any other's: where the function changes, name it
    anew in the config (`reviser.model`), or its earlier answers are taken.

    Args:
        function: gets the request and returns the text of the answer; equal requests must get
            equal texts.
    """

    def __init__(self, function: Callable[[ChatRequest], str]) -> None:
        self._function = function

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        """Answer each request by the function; tokens are counted as 0: nobody is paid."""
        for request in requests:
            done = Completion(
                text=self._function(request),
                finish_reason="stop",
                prompt_tokens=0,
                completion_tokens=0,
            )
            yield [ModelReply(request, done.to_response(request.model))]
