"""Answer and revision become loser and winner: the last stage."""

from collections.abc import Iterator, Mapping, Sequence

from clair_apo.clair.contrast import measure_contrast
from clair_apo.clair.gate import judge_revision
from clair_apo.records import (
    Dropped,
    DropReason,
    Message,
    PreferencePair,
    Prompt,
    Provenance,
    Response,
    Revision,
    Stage,
)

_DETAIL = {
    DropReason.EMPTY: "the revision has no text",
    DropReason.NO_OP: "the revision equals the answer",
    DropReason.REFUSED: "the revision declines where the answer does not",
}


def make_pairs(
    prompts: Mapping[str, Prompt],
    responses: Mapping[str, Response],
    revisions: Sequence[Revision],
    template_digest: str,
) -> Iterator[PreferencePair | Dropped]:
    """Pair every answer (rejected) with its revision (chosen), where the gate lets it pass.

    Args:
        prompts: by id.
        responses: by the prompt's id.
        revisions: the order is kept.
        template_digest: of the template that asked for the revisions.
    """
    for revision in revisions:
        response = responses[revision.prompt_id]
        reason = judge_revision(response.text, revision.text)
        if reason:
            yield Dropped(
                id=revision.prompt_id,
                stage=Stage.PAIR,
                reason=reason,
                detail=_DETAIL[reason],
                raw=revision.text,
            )
        else:
            yield _pair(prompts[revision.prompt_id], response, revision, template_digest)


def _pair(
    prompt: Prompt, response: Response, revision: Revision, template_digest: str
) -> PreferencePair:
    return PreferencePair(
        id=prompt.id,
        recipe="clair",
        prompt=prompt.messages,
        chosen=(Message(role="assistant", content=revision.text),),
        rejected=(Message(role="assistant", content=response.text),),
        rationale=revision.rationale,
        contrast=measure_contrast(chosen=revision.text, rejected=response.text),
        provenance=Provenance(
            source=prompt.source,
            target_model=response.model,
            reviser_model=revision.model,
            format=revision.format,
            template_digest=template_digest,
            response_key=response.request_key,
            revision_key=revision.request_key,
        ),
    )
