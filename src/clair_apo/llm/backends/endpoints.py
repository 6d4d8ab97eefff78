"""What is sent to which address of a server, and how its reply becomes a chat completion."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from clair_apo.llm.responses import count_of, is_completion, usage_of
from clair_apo.llm.spec import ModelSpec
from clair_apo.llm.types import ChatRequest, Completion, RawResponse


@dataclass(frozen=True)
class Endpoint:
    """One address of a server.

    Attributes:
        path: below the server's `base_url`, or a whole address.
        body: the JSON that asks a request, for a model by the name that the server knows.
        read: the reply as a chat completion; None where it is none.
    """

    path: str
    body: Callable[[ChatRequest, str], dict[str, Any]]
    read: Callable[[RawResponse], RawResponse | None]

    @classmethod
    def of(cls, spec: ModelSpec) -> Self:
        """Where a model is asked: for chat completions or, a reward model, for scores."""
        if spec.gives_scores:
            root = (spec.base_url or "").rstrip("/").removesuffix("/v1")
            return cls(f"{root}/classify", _classification, _score)
        return cls("/chat/completions", ChatRequest.body, _completion)


def _completion(response: RawResponse) -> RawResponse | None:
    return response if is_completion(response) else None


def _classification(request: ChatRequest, model: str) -> dict[str, Any]:
    """The body of vLLM's `/classify`; the raw number is wanted, not its sigmoid."""
    messages = [{"role": m.role, "content": m.content} for m in request.messages]
    return {"model": model, "messages": messages, "use_activation": False}


def _score(response: RawResponse) -> RawResponse | None:
    """The number of a classifier with one label; None for one with several, or for no number."""
    data = response.get("data")
    first = data[0] if isinstance(data, list) and len(data) == 1 else None
    numbers = first.get("probs") if isinstance(first, dict) else None
    if (
        not isinstance(numbers, list)
        or len(numbers) != 1
        or not isinstance(numbers[0], int | float)
    ):
        return None
    return Completion(
        text=repr(float(numbers[0])),
        finish_reason="stop",
        prompt_tokens=count_of(usage_of(response).prompt_tokens),
        completion_tokens=0,
    ).to_response(str(response.get("model") or ""))
