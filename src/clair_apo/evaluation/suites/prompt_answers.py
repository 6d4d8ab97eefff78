"""The answers of every model to the held-out prompts, which several suites look at."""

from dataclasses import dataclass

from clair_apo.evaluation.suites.base import SuiteContext
from clair_apo.llm import Answer
from clair_apo.records import Conversation, FinishReason, Prompt


@dataclass(frozen=True)
class PromptAnswer:
    """One model's answer to one held-out prompt.

    Attributes:
        prompt: what was asked.
        text: the answer; None where there is none.
        finish_reason: what ended it; `given` where a recording does not say.
        tokens: of the answer as the model counts them; 0 where nobody counted.
        failure: why there is no answer.
    """

    prompt: Prompt
    text: str | None
    finish_reason: FinishReason = "other"
    tokens: int = 0
    failure: str = ""
    refused: bool = False

    @property
    def id(self) -> str:
        """The prompt's id."""
        return self.prompt.id

    @property
    def asked(self) -> str:
        """The prompt's last turn."""
        return self.prompt.messages[-1].content

    @property
    def conversation(self) -> Conversation:
        """All that was asked."""
        return self.prompt.messages


def answer_prompts(context: SuiteContext) -> dict[str, list[PromptAnswer]]:
    """The answer of each model to each held-out prompt, by the model's name."""
    conversations = [prompt.messages for prompt in context.prompts]
    return {
        model.name: [
            _found(prompt, answer)
            for prompt, answer in zip(
                context.prompts, context.answers(model, conversations), strict=True
            )
        ]
        for model in context.models
    }


def failures(answers: dict[str, list[PromptAnswer]]) -> tuple[str, ...]:
    """A sentence for each model that has no answer to some prompts."""
    lines = []
    for name, found in answers.items():
        if failed := [one for one in found if one.text is None]:
            lines.append(
                f"{name} has no answer to {len(failed)} of {len(found)} prompts, which count "
                f"nowhere (the first: {failed[0].failure})"
            )
    return tuple(lines)


def _found(prompt: Prompt, answer: Answer) -> PromptAnswer:
    done = answer.completion
    if done is None:
        return PromptAnswer(prompt, None, failure=answer.failure)
    return PromptAnswer(
        prompt, done.text, done.finish_reason, done.completion_tokens, refused=done.refused
    )
