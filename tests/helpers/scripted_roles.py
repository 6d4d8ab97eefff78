"""One model for each role of every recipe, of which no row is dropped: what it says is a rule."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clair_apo.clair import RECIPES, GenerateConfig
from clair_apo.llm import ChatModel, ChatRequest, Completion, ModelReply, ModelSpec
from clair_apo.llm.token_count import AROUND_MESSAGE
from clair_apo.records import Message
from tests.helpers.clair_runs import full_reply, make_config, write_rows

PROMPT_TOKENS, COMPLETION_TOKENS = 20, 10
"""What every answer says that it took."""
SERVER = "http://127.0.0.1:9/v1"


class Role(ChatModel):
    """Answers by a rule; counts what it is asked."""

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []

    def text(self, request: ChatRequest) -> str:
        raise NotImplementedError

    def answer(self, requests: Sequence[ChatRequest]) -> Iterator[list[ModelReply]]:
        for request in requests:
            self.requests.append(request)
            done = Completion(
                text=self.text(request),
                finish_reason="stop",
                prompt_tokens=PROMPT_TOKENS,
                completion_tokens=COMPLETION_TOKENS,
            )
            yield [ModelReply(request, done.to_response(request.model))]


class Target(Role):
    """Answers the longer the later the sample."""

    def text(self, request: ChatRequest) -> str:
        return "The answer is plain." + " Really so." * request.sample


class Reviser(Role):
    """Makes answers longer to improve them, and shorter to worsen them."""

    def text(self, request: ChatRequest) -> str:
        asked = request.messages[-1].content
        if "<answer>" not in asked:
            return "A stronger model's own answer is long and has many words in it."
        if "worse" in asked:
            return full_reply("The answer.")
        return full_reply("The answer is plain. Really so. Really so. And it says why.")


class Judge(Role):
    """Holds the longer answer for better."""

    def text(self, request: ChatRequest) -> str:
        asked = request.messages[-1].content
        first, second = (
            re.search(rf"<answer_{n}>\n(.*)\n</answer_{n}>", asked, re.S)[1] for n in (1, 2)
        )
        verdicts = ("yes", "no") if "claims" in asked else ("1", "2")
        return f"<verdict>{verdicts[len(first) < len(second)]}</verdict>"


class WordCounter:
    """A tokeniser whose tokens are words; takes the place of `TokenCounter` in an estimate."""

    def __init__(self, model: str = "words") -> None:
        self.name = model

    def text(self, text: str) -> int:
        return len(text.split())

    def conversation(self, messages: Sequence[Message]) -> int:
        return sum(self.text(message.content) + AROUND_MESSAGE for message in messages)


class OfPool(Role):
    """A model of a pool, which answers longer the later it stands in it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def text(self, request: ChatRequest) -> str:
        return "The answer is plain." + " Really so." * self.number


def models() -> dict[str, Any]:
    return {
        "target_model": Target(),
        "reviser_model": Reviser(),
        "judge_model": Judge(),
        "pool_models": (OfPool(1), OfPool(0)),
    }


def asked_of(roles: dict[str, Any]) -> dict[str, int]:
    """Requests by role, of those that were asked anything."""
    pool = roles.get("pool_models", ())
    named = {name.removesuffix("_model"): role for name, role in roles.items() if name[-1] != "s"}
    named |= {f"pool.{number}": role for number, role in enumerate(pool)}
    counts = {name: len(role.requests) for name, role in named.items()}
    return {name: count for name, count in counts.items() if count}


def server_model(name: str, **changes: object) -> ModelSpec:
    """A model behind a server that nobody must ask."""
    return ModelSpec(**{"model": name, "base_url": SERVER, "max_tokens": 100} | changes)


def config_for(folder: Path, recipe: str, prompts: int = 6, **changes: object) -> GenerateConfig:
    """A run of a recipe with every model that it may ask, its answers in the format `full`."""
    given = {"answers": ["short", "rather longer", "the longest of them"]}
    columns = given if recipe == "off_policy_judge" else {}
    rows = [{"prompt": f"Question number {n}?"} | columns for n in range(prompts)]
    pool = changes.pop("pool", (server_model("first"), server_model("second")))
    settings = {
        "recipe": recipe,
        "pool": pool if recipe in RECIPES and "pool" in RECIPES[recipe].stages else (),
        "samples": 3,
        "revision": {"format": "full"},
        # behind a server, so that a model in its place has the same identity
        **{role: server_model(role) for role in ("target", "reviser", "judge")},
    }
    return make_config(folder, write_rows(folder / "data.jsonl", rows), **settings | changes)
