"""A reviser model revises each answer, and its replies are parsed: the third stage."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from clair_apo.clair.edits import EditError, apply_edits
from clair_apo.clair.gate import judge_reply
from clair_apo.clair.parse import (
    ParsedRevision,
    ParseError,
    parse_edits,
    parse_revision,
)
from clair_apo.clair.templates import RevisionTemplate
from clair_apo.clair.wording import is_refusal
from clair_apo.llm import Answer, Completion, StoredChat
from clair_apo.records import (
    Dropped,
    DropReason,
    Prompt,
    Response,
    Revision,
    RevisionFormat,
    Stage,
)


def revise(
    prompts: Mapping[str, Prompt],
    responses: Sequence[Response],
    reviser: StoredChat,
    template: RevisionTemplate,
    advance: Callable[[int], None] | None = None,
) -> Iterator[Revision | Dropped]:
    """Have every response revised once; a reply that is no revision becomes a `Dropped` row.

    Args:
        prompts: by id.
        responses: the answers to revise; the order is kept.
        reviser: the model that revises.
        template: how it is asked.
        advance: told how many more responses are revised.

    Raises:
        RequestError: the model cannot be asked.
        ConfigError: the template does not render.
    """
    requests = [
        reviser.request(template.render(prompts[r.prompt_id].messages, r.text)) for r in responses
    ]
    for response, answer in zip(responses, reviser.ask(requests, advance), strict=True):
        yield _revision(response, answer, template.format, reviser)


def read_reply(reply: str, answer: str, format: RevisionFormat) -> ParsedRevision:
    """Parse a reviser's reply and, in the format `edits`, apply it to the answer.

    Raises:
        ParseError: the reply is no revision of this answer; `.reason` says why.
    """
    if format == "full":
        return parse_revision(reply)
    parsed = parse_edits(reply)
    try:
        return ParsedRevision(apply_edits(answer, parsed.edits).strip(), parsed.rationale)
    except EditError as error:
        raise ParseError(DropReason.EDIT_NOT_FOUND, *error.faults) from None


def _revision(
    response: Response, answer: Answer, format: RevisionFormat, reviser: StoredChat
) -> Revision | Dropped:
    completion = answer.completion
    if completion is None:
        return _dropped(response, DropReason.REQUEST_FAILED, answer.failure, "")
    verdict = judge_reply(
        completion.text,
        completion.finish_reason,
        completion.completion_tokens,
        reviser.spec.max_tokens,
    )
    if verdict:
        return _dropped(response, verdict.reason, verdict.detail, completion.text)
    try:
        parsed = read_reply(completion.text, response.text, format)
    except ParseError as error:
        declined = error.reason is DropReason.UNPARSED and is_refusal(completion.text)
        reason = DropReason.REFUSED if declined else error.reason
        return _dropped(response, reason, str(error), completion.text)
    return _made(response, parsed, completion, answer.request.key, format, reviser.identity)


def _made(
    response: Response,
    parsed: ParsedRevision,
    completion: Completion,
    key: str,
    format: RevisionFormat,
    model: str,
) -> Revision:
    return Revision(
        prompt_id=response.prompt_id,
        text=parsed.text,
        rationale=parsed.rationale,
        format=format,
        model=model,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        request_key=key,
    )


def _dropped(response: Response, reason: DropReason, detail: str, raw: str) -> Dropped:
    return Dropped(id=response.prompt_id, stage=Stage.REVISE, reason=reason, detail=detail, raw=raw)
