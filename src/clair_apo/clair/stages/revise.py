"""Asks a reviser to revise an answer, and reads its reply.

`revise` is the stage. A reply that was cut is asked for once more with a larger limit; one that
does not have the asked form, or whose edits do not apply, is sent back once with what is wrong with
it (`repair_message`). `read_reply` reads a reply and knows of no model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clair_apo.clair.answer_text import trimmed
from clair_apo.clair.filters.gate import DropCause, check_reply
from clair_apo.clair.prompt_state import PromptState, StageOutput, drop
from clair_apo.clair.revision.edits import locate_edits
from clair_apo.clair.revision.parse import (
    ParsedRevision,
    parse_edits,
    parse_revision,
    parse_segments,
)
from clair_apo.clair.revision.placed import EditError, apply_placed
from clair_apo.clair.revision.reply_parts import ParseError
from clair_apo.clair.revision.segments import place_segments
from clair_apo.clair.revision.template import RevisionTemplate
from clair_apo.clair.stages.context import StageContext
from clair_apo.llm import Answer, CachedChat, ChatRequest, Dialogue
from clair_apo.llm.thinking import speaks_of_thinking, without_thinking
from clair_apo.records import (
    DropReason,
    Located,
    Message,
    PlacedEdit,
    Response,
    Revision,
    RevisionFormat,
    Stage,
)
from clair_apo.text.detectors import is_refusal

REPAIRABLE = frozenset({DropReason.UNPARSED, DropReason.EDIT_NOT_FOUND})
"""The reasons that asking again can repair; a reply that declines or is cut is not among them."""
LARGER = 2
"""A reply that was cut is asked for again with so many times the limit."""

_FORM = {
    "full": "<reasoning>...</reasoning> and <revision>the whole revised answer</revision>",
    "edits": "<reasoning>...</reasoning> and <edits> with one <edit> for each change",
    "segments": (
        "<reasoning>...</reasoning> and <segments> with one <segment> for each segment that changes"
    ),
}
_HOW_TO_NAME = {
    "edits": (
        " Copy every <find> from the answer character by character, long enough to stand there "
        "only once; edits must not overlap."
    ),
    "segments": (
        " Name segments by the numbers that they have in the answer above, each one once, and "
        "write the whole new text of each."
    ),
}


def revise(state: PromptState, context: StageContext) -> Dialogue[StageOutput]:
    """Have an answer revised; a reply that is no revision drops the prompt with its reason.

    Raises:
        ConfigError: the template does not render.
    """
    reviser, template = context.clients.reviser, context.template
    assert reviser is not None
    assert template is not None
    response, spent = context.recipe.revises(state), _Spent(context.ask_again)
    messages = template.render(state.prompt.messages, response.text)
    reply = yield from _whole_reply(reviser.request(messages), reviser, spent)
    result = _read(reply, response.text, context)
    if context.ask_again and isinstance(result, _Fault) and result.repairable:
        assert reply.completion is not None
        messages += (
            Message(role="assistant", content=reply.completion.text),
            Message(role="user", content=repair_message(result.repairable, template.format)),
        )
        reply = yield from _whole_reply(reviser.request(messages), reviser, spent)
        result = _read(reply, response.text, context)
    if isinstance(result, _Fault):
        return drop(state, Stage.REVISE, result.reason, result.detail, result.raw)
    return StageOutput((_revision(response, reviser, template, reply, result, spent),))


def _revision(
    response: Response,
    reviser: CachedChat,
    template: RevisionTemplate,
    reply: Answer,
    parsed: ParsedRevision,
    spent: "_Spent",
) -> Revision:
    assert reply.completion is not None
    return Revision(
        prompt_id=response.prompt_id,
        sample=response.sample,
        text=parsed.text,
        rationale=parsed.rationale,
        format=template.format,
        direction=template.direction,
        model=reviser.identity,
        answered_by=reply.completion.model,
        finish_reason=reply.completion.finish_reason,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        request_keys=tuple(spent.keys),
        sampling=reply.request.sampling,
        located=parsed.located,
        edits=parsed.edits,
    )


def sum_up_revisions(revisions: Iterable[Revision]) -> dict[str, Any]:
    """How many edits were found exactly and how many folded, for the manifest; {} without any."""
    found = [revision.located for revision in revisions if revision.located]
    if not found:
        return {}
    exact, folded = sum(each.exact for each in found), sum(each.folded for each in found)
    return {"located": {"exact": exact, "folded": folded}}


def repair_message(error: ParseError, format: RevisionFormat) -> str:
    """The user's turn that asks for the same revision in a form that can be used.

    It follows the first request and the reply, and refers to the answer in the request.

    Args:
        error: what was wrong; its reason is one of `REPAIRABLE`.
        format: how the reviser was asked to reply.

    Returns:
        All that was wrong, edit by edit, and what to do now.

    Raises:
        ValueError: asking again cannot repair such a reply.
    """
    if error.reason not in REPAIRABLE:
        raise ValueError(f"a reply that is {error.reason.value} is not asked for again")
    faults = "\n".join(f"- {fault}" for fault in error.faults)
    return (
        f"That reply cannot be used:\n{faults}\n\nPlease send the whole reply once more, with the "
        f"same revision, in exactly the form that was asked for: {_FORM[format]}."
        + (_HOW_TO_NAME[format] if error.reason is DropReason.EDIT_NOT_FOUND else "")
    )


def read_reply(
    reply: str,
    answer: str,
    format: RevisionFormat,
    strip_thinking: bool = True,
    fold: bool = True,
) -> ParsedRevision:
    """Parse a reviser's reply and, in the formats `edits` and `segments`, apply it to the answer.

    Args:
        reply: the whole of it.
        answer: the text that was revised.
        format: how the reviser was asked to reply.
        strip_thinking: whether thinking that the revised answer begins with is no part of it,
            unless the answer speaks of such tags itself.
        fold: whether an edit whose passage stands nowhere is looked for once more with white space,
            quotes and the like set aside (`locate_edits`).

    Raises:
        ParseError: the reply is no revision of this answer; `.reason` says why.
    """
    try:
        if format == "edits":
            return _edited(reply, answer, fold)
        if format == "segments":
            named = parse_segments(reply, answer)
            placed = place_segments(answer, named.changes)
            return ParsedRevision(_edited_text(answer, placed), named.rationale, edits=placed)
    except EditError as error:
        raise ParseError(DropReason.EDIT_NOT_FOUND, *error.faults) from None
    parsed = parse_revision(reply, answer)
    if not strip_thinking or speaks_of_thinking(answer):
        return parsed
    text = without_thinking(parsed.text)
    if text == parsed.text:
        return parsed
    if not text.strip():
        raise ParseError(DropReason.EMPTY, "the revised answer is thinking and nothing else")
    return ParsedRevision(trimmed(text), parsed.rationale)


def _edited(reply: str, answer: str, fold: bool) -> ParsedRevision:
    listed = parse_edits(reply, answer)
    edits = locate_edits(answer, listed.edits, fold=fold)
    folded = sum(edit.folded for edit in edits)
    placed = tuple(edit.place for edit in edits)
    return ParsedRevision(
        text=_edited_text(answer, placed),
        rationale=listed.rationale,
        located=Located(exact=len(edits) - folded, folded=folded),
        edits=placed,
    )


def _edited_text(answer: str, edits: Sequence[PlacedEdit]) -> str:
    return trimmed(apply_placed(answer, edits))


@dataclass
class _Spent:
    """What all requests of one revision took, and whether there may be more."""

    ask_again: bool
    keys: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, answer: Answer) -> None:
        self.keys.append(answer.request.key)
        if answer.completion:
            self.prompt_tokens += answer.completion.prompt_tokens
            self.completion_tokens += answer.completion.completion_tokens


@dataclass(frozen=True)
class _Fault:
    """Why a reply is no revision."""

    reason: DropReason
    detail: str
    raw: str
    repairable: ParseError | None = None
    """What asking again can repair."""


def _whole_reply(request: ChatRequest, reviser: CachedChat, spent: _Spent) -> Dialogue[Answer]:
    """Ask; where the reply was cut, ask once more with a larger limit."""
    (answer,) = yield (request,)
    spent.add(answer)
    cause = _check(answer)
    if not (cause and cause.reason is DropReason.CUT and spent.ask_again):
        return answer
    larger = reviser.request(
        request.messages, sample=request.sample, max_tokens=LARGER * request.sampling.max_tokens
    )
    (again,) = yield (larger,)
    spent.add(again)
    return again if again.completion else answer  # no model is obliged to take the larger limit


def _check(answer: Answer) -> DropCause | None:
    done, limit = answer.completion, answer.request.sampling.max_tokens
    if done is None:
        return None
    return check_reply(
        done.text, done.finish_reason, done.completion_tokens, limit, refused=done.refused
    )


def _read(reply: Answer, answer: str, context: StageContext) -> ParsedRevision | _Fault:
    if reply.completion is None:
        return _Fault(DropReason.REQUEST_FAILED, reply.failure, "")
    text = reply.completion.text
    cause = _check(reply)
    if cause:
        return _Fault(cause.reason, cause.detail, text)
    try:
        assert context.template is not None
        return read_reply(
            text, answer, context.template.format, context.strip_thinking, context.fold
        )
    except ParseError as error:
        if error.reason is DropReason.UNPARSED and is_refusal(text):
            return _Fault(DropReason.REFUSED, str(error), text)
        return _Fault(error.reason, str(error), text, error if error.reason in REPAIRABLE else None)
