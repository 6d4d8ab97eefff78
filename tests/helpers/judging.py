"""Judges by a rule, and what is put to them."""

import re
from collections.abc import Callable
from pathlib import Path

from clair_apo.llm import CachedChat, ChatRequest, ModelSpec, RequestStore
from clair_apo.llm.judge import Judge
from tests.helpers.scripted_roles import SERVER, Role

_SHOWN = re.compile(r"<answer_(1|2)>\n(.*?)\n</answer_\1>", re.S)

JUDGE = ModelSpec(model="judge", base_url=SERVER)


class RuleJudge(Role):
    """Says what a rule says of the two answers shown: "1", "2", "tie" or anything else."""

    def __init__(self, rule: Callable[[str, str], str]) -> None:
        super().__init__()
        self.rule = rule

    def text(self, request: ChatRequest) -> str:
        shown = dict(_SHOWN.findall(request.messages[-1].content))
        return f"<verdict>{self.rule(shown['1'], shown['2'])}</verdict>"


def prefers(word: str) -> RuleJudge:
    """A judge that prefers the answer in which a word stands; else it is a tie."""

    def rule(first: str, second: str) -> str:
        if (word in first) == (word in second):
            return "tie"
        return "1" if word in first else "2"

    return RuleJudge(rule)


def always(verdict: str) -> RuleJudge:
    return RuleJudge(lambda first, second: verdict)


def longest() -> RuleJudge:
    return RuleJudge(lambda first, second: "1" if len(first) >= len(second) else "2")


def judge_of(store: Path, rule: RuleJudge, rubric: str = "") -> Judge:
    return Judge(CachedChat(JUDGE, RequestStore(store), rule), rubric)
