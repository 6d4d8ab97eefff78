"""Answer and revision become loser and winner: the last stage."""

from collections.abc import Iterator, Mapping, Sequence

from clair_apo.clair.contrast import measure_contrast
from clair_apo.clair.gate import Gate, GateConfig
from clair_apo.records import (
    Dropped,
    Message,
    PreferencePair,
    Prompt,
    Provenance,
    Response,
    Revision,
    Stage,
)


def make_pairs(
    prompts: Mapping[str, Prompt],
    responses: Mapping[str, Response],
    revisions: Sequence[Revision],
    template_digest: str,
    gate: Gate | None = None,
) -> Iterator[PreferencePair | Dropped]:
    """Pair every answer (rejected) with its revision (chosen), where the gate lets it pass.

    Args:
        prompts: by id.
        responses: by the prompt's id.
        revisions: the order is kept.
        template_digest: of the template that asked for the revisions.
        gate: what makes no pair; by default as `GateConfig` is without any setting.
    """
    gate = gate or Gate(GateConfig())
    for revision in revisions:
        response = responses[revision.prompt_id]
        prompt = prompts[revision.prompt_id]
        verdict = gate.judge_revision(prompt.messages, response.text, revision.text)
        if verdict:
            yield Dropped(
                id=revision.prompt_id,
                stage=Stage.PAIR,
                reason=verdict.reason,
                detail=verdict.detail,
                raw=revision.text,
            )
        else:
            yield _pair(prompt, response, revision, template_digest)


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
