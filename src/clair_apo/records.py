"""The records of a run: prompt, response, judgement, revision, pair, verification, dropped row.

Every record is frozen and typed, is one JSON line in a file, and comes back from it unchanged.
Knows nothing of models or training.
"""

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length", "content_filter", "given", "other"]
"""What ended an answer; `other`, in rows of earlier versions, is not known to be whole."""
RevisionFormat = Literal["full", "edits", "segments"]
Direction = Literal["improve", "worsen"]
TokenLimitField = Literal["max_tokens", "max_completion_tokens"]


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair (\\ud800 to \\udfff) is no character") from None
    return text


Text = Annotated[str, AfterValidator(_writable)]
"""Text from outside: JSON can spell what no UTF-8 file can hold, and that is refused."""


class Record(BaseModel):
    """The base of every record: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


Conversation = tuple[Message, ...]


class Sampling(Record):
    """The settings of a request that can change its answer."""

    max_tokens: int = Field(gt=0)
    temperature: float | None = Field(ge=0, allow_inf_nan=False)
    """None, as with `top_p`: nothing is sent to a server; in this process it is 1."""
    top_p: float | None = Field(gt=0, le=1)
    token_limit_field: TokenLimitField = "max_tokens"
    """The field in which a server is sent `max_tokens`."""
    extra_body: Text = ""
    """Further settings that the server is sent, as JSON; empty for none."""

    def in_key(self) -> dict[str, Any]:
        """The settings that a request's key is made of: later ones only where they are set.

        So a setting that is added to this record leaves the keys of all earlier answers as they
        are.
        """
        return self.model_dump(exclude_defaults=True)


class DatasetAnswer(Record):
    """An answer to a prompt that the data set brings with it."""

    text: Text
    score: float | None = Field(None, allow_inf_nan=False)
    """Its score in the data; higher is better."""
    model: str | None = None
    """The model that wrote it; None where the data does not say."""


class Prompt(Record):
    """What the target model is asked: a conversation that ends with the user's turn."""

    id: str
    """First 16 hex digits of the SHA-256 of the messages: the same prompt has the same id."""
    messages: Conversation
    source: str
    """File (without its folder) and line, or data set and row, that it came from."""
    given: tuple[DatasetAnswer, ...] = ()
    """The answers that the data brings; empty where the target model is to answer."""


class Response(Record):
    """One answer to a prompt: the target model's own, another model's, or one the data brings."""

    prompt_id: str
    sample: int = 0
    """Which of several answers to the same prompt, from 0."""
    text: str
    model: str
    """Identity of the model; `given` where the data brought the answer."""
    answered_by: str | None = None
    """The model that answered, as its server names it; None where that told none, where the data
    brought the answer, and in rows of before this was written down."""
    finish_reason: FinishReason
    prompt_tokens: int = 0
    """Summed over all requests that led to the answer."""
    completion_tokens: int = 0
    """Summed likewise."""
    request_keys: tuple[str, ...] = ()
    """Keys in the request store, in the order of asking; empty where the data brought it."""
    sampling: Sampling | None = None
    """Settings of the request that it answers; None where the data brought it."""
    score: float | None = Field(None, allow_inf_nan=False)
    """The answer's score in the data; None where there is none."""


class Vote(Record):
    """One question to a judge; for two equal answers, a tie without a question."""

    first: int
    """The sample that was shown first."""
    second: int
    """The sample that was shown second."""
    verdict: Literal["first", "second", "tie"] | None
    """None where the reply held no verdict."""


class SampleScore(Record):
    """The score of one of several answers."""

    sample: int
    score: float = Field(allow_inf_nan=False)
    """Higher is better."""


class Judgement(Record):
    """Which of two answers to a prompt is better by a judge that is asked in both orders."""

    prompt_id: str
    better: int | None
    """The sample that is better; None for a tie or an inconsistent judge."""
    worse: int | None
    """The sample that is worse; None where `better` is."""
    votes: tuple[Vote, ...]
    """Every two answers in both orders, with the verdict; empty where scores or checks decided."""
    scores: tuple[SampleScore, ...] = ()
    """Of every answer that has one, where scores or checks decided."""
    model: str
    """The judge's or scorer's identity; `scores` where the data's scores decided, `checks` where
    checks did."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_keys: tuple[str, ...] = ()


class Located(Record):
    """How the passages of a reply in the format `edits` were found in the answer."""

    exact: int
    """Edits whose passage stands there as it was quoted."""
    folded: int
    """Edits whose passage was found with white space, quotes and the like set aside."""


class PlacedEdit(Record):
    """What is to stand in a text from position `start` to, and without, position `end`."""

    start: int
    """In characters, from 0."""
    end: int
    replace: str


class Revision(Record):
    """A reviser's minimal revision of a response."""

    prompt_id: str
    sample: int = 0
    """The response that was revised."""
    text: str
    rationale: str
    format: RevisionFormat
    direction: Direction = "improve"
    model: str
    answered_by: str | None = None
    """The model that gave the last reply, as its server names it; None as in `Response`."""
    finish_reason: FinishReason
    prompt_tokens: int
    """Summed over all requests that led to the revision."""
    completion_tokens: int
    """Summed likewise."""
    request_keys: tuple[str, ...]
    """Keys in the request store, in the order of asking."""
    sampling: Sampling | None = None
    """Settings of the last of these requests, whose reply it is."""
    located: Located | None = None
    """None in other formats than `edits`, and in rows of before this was written down."""
    edits: tuple[PlacedEdit, ...] | None = None
    """What was put where in the response's text, in its order; trimmed, the result is `text`. None
    in the format `full`, and in rows of before this was written down."""


class Contrast(Record):
    """How far apart the two answers of a pair are."""

    jaccard: float
    """Shared tokens over all tokens, as sets: 1.0 where both use the same words."""
    levenshtein: int
    """Single-character edits that lead from rejected to chosen."""
    rejected_characters: int
    chosen_characters: int

    @property
    def levenshtein_share(self) -> float:
        """The Levenshtein distance as a share of the longer text: 0.0 equal, 1.0 all changed."""
        longer = max(self.rejected_characters, self.chosen_characters)
        return self.levenshtein / longer if longer else 0.0


class Origin(Record):
    """Where one side of a pair comes from, with its tokens and cost."""

    kind: Literal["given", "response", "revision"]
    model: str
    """Identity of the model that was asked for it."""
    answered_by: str | None = None
    """The model that answered, as its server names it; None as in `Response`."""
    request_keys: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = Field(None, allow_inf_nan=False)
    """US dollars at the run's prices; None where there is no price."""
    sampling: Sampling | None = None
    """Settings of the request that it answers; None where the data brought it, and in rows of
    before these were written down."""
    score: float | None = Field(None, allow_inf_nan=False)
    """Of the text, by `scored_by`; higher is better."""


class ChainStep(Record):
    """Which of a revision's edits lie between the sides of a pair, where each makes a pair."""

    first: int
    """The first of these edits, from 1, in the order of the text."""
    last: int
    """The last one; another one than the first where the texts in between made no pair."""
    edits: int
    """Edits of the whole revision."""
    chosen_span: tuple[int, int]
    """Beginning and end, in characters, of what chosen has where rejected has something else."""
    rejected_span: tuple[int, int]
    """The same of rejected."""


class Provenance(Record):
    """Where a pair comes from, so that it can be made again."""

    source: str
    chosen: Origin
    rejected: Origin
    judged_by: str | None = None
    """Identity of the judge that chose among answers; `scores` where the data's scores did,
    `checks` where checks did."""
    judge_keys: tuple[str, ...] = ()
    judge_cost: float | None = Field(None, allow_inf_nan=False)
    """US dollars of these requests; None where there are none, or no price."""
    scored_by: str | None = None
    """Identity of what scored both sides; `checks` where checks did."""
    score_keys: tuple[str, ...] = ()
    score_cost: float | None = Field(None, allow_inf_nan=False)
    """US dollars of these requests; None where there are none, or no price."""
    verified_by: str | None = None
    """Identity of the judge that confirmed the pair."""
    verify_keys: tuple[str, ...] = ()
    verify_cost: float | None = Field(None, allow_inf_nan=False)
    """US dollars of these requests; None where there are none, or no price."""
    judge_digest: str | None = None
    """Of the judge's templates and rubric, where a judge chose or confirmed; 16 hex digits."""
    judge_sampling: Sampling | None = None
    """The judge's settings; None where no judge chose or confirmed."""
    cost: float | None = Field(None, allow_inf_nan=False)
    """US dollars of all that was asked for this pair: its sides, the answers that were not chosen,
    judging and verification; None where a price is missing. Answers of a run that could not be
    used, because they were cut or empty, are not in it. Of a chain each pair has an equal share."""
    format: RevisionFormat | None = None
    """None, with the next two, where no side is a revision."""
    direction: Direction | None = None
    template_digest: str | None = None
    step: ChainStep | None = None
    """None where the whole revision makes one pair."""


class PreferencePair(Record):
    """Two answers to one prompt, the better one named; the row of `pairs.jsonl`."""

    id: str
    """The prompt's id."""
    recipe: str
    prompt: Conversation
    chosen: Conversation
    rejected: Conversation
    rationale: str
    contrast: Contrast
    provenance: Provenance

    def to_trl_row(self) -> dict[str, list[dict[str, str]]]:
        """The conversational preference row that TRL's trainers take."""
        sides = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
        return {name: [m.model_dump() for m in turns] for name, turns in sides.items()}


class Verification(Record):
    """A judge's answer to the claim that a pair's chosen answer is better."""

    pair_id: str
    """The prompt's id, which all pairs of a chain have."""
    last_edit: int | None = None
    """Of the pair's step in its chain; None where the whole revision makes one pair."""
    confirmed: bool | None
    """None where the reply held no verdict."""
    control: bool
    """Whether the judge was also asked the swapped-order control: the rejected answer is better."""
    control_confirmed: bool | None
    """A careful judge gives False; None for a reply without a verdict, or without a control."""
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_keys: tuple[str, ...]


class Stage(StrEnum):
    """The stages in which a prompt can be lost."""

    LOAD = "load"
    RESPOND = "respond"
    STRENGTHEN = "strengthen"
    JUDGE = "judge"
    REVISE = "revise"
    PAIR = "pair"
    SCORE = "score"
    VERIFY = "verify"


STAGE_TITLES = {
    Stage.LOAD: "Loading prompts",
    Stage.RESPOND: "Target model's answer",
    Stage.STRENGTHEN: "Stronger model's answer",
    Stage.JUDGE: "Judging",
    Stage.REVISE: "Revision",
    Stage.PAIR: "Pairing",
    Stage.SCORE: "Scoring",
    Stage.VERIFY: "Verification",
}
"""The stages for people."""


class DropReason(StrEnum):
    """Why a prompt became no pair; a closed list. The only other outcome is `kept`."""

    DUPLICATE = "duplicate"
    """The same prompt came earlier in the data."""
    NEAR_DUPLICATE = "near_duplicate"
    """A prompt that is nearly the same came earlier in the data."""
    CONTAMINATED = "contaminated"
    """The prompt shares a passage with a test set."""
    EMPTY = "empty"
    """The answer or the revision has no text."""
    CUT = "cut"
    """The answer or the revision ran into its token limit, or a filter broke it off."""
    REFUSED = "refused"
    """The reviser declined to revise."""
    UNPARSED = "unparsed"
    """The model's reply does not have the asked form, also after it was asked to mend it."""
    EDIT_NOT_FOUND = "edit_not_found"
    """An edit names text that is not in the answer, or more than once; or a segment that there is
    not, or that is changed twice."""
    NO_OP = "no_op"
    """Both sides are equal."""
    THINKING_DIFFERS = "thinking_differs"
    """One side begins with thinking and the other does not; only where thinking is kept."""
    OVER_EDITED = "over_edited"
    """The revision changes more than the gate allows."""
    IDENTICAL_AFTER_TRUNCATION = "identical_after_truncation"
    """Both sides are the same tokens within the training length, or have none: the training
    tokenizer's chat template takes no such conversation."""
    LENGTH_RATIO = "length_ratio"
    """The chosen side is too short or too long beside the rejected one."""
    LENGTH_DIFFERENCE = "length_difference"
    """One side has too many characters more than the other."""
    TOO_LONG = "too_long"
    """One side has more characters than a side may have."""
    KEYWORD = "keyword"
    """A side holds one of the gate's keywords."""
    LANGUAGE_CHANGED = "language_changed"
    """The sides are in different languages."""
    MENTIONS_REVISION = "mentions_revision"
    """The revision speaks of being one."""
    CHECKS_FAILED = "checks_failed"
    """The chosen side does not pass every check of the gate."""
    NOT_SCORED = "not_scored"
    """The scorer gives a side, or all answers but one, no score."""
    JUDGE_REJECTED = "judge_rejected"
    """The judge, scores or checks prefer no answer, or the judge finds the chosen one worse."""
    REQUEST_FAILED = "request_failed"
    """The server rejected this one request, or failed at it time and again."""


class Dropped(Record):
    """A prompt that became no pair, and why; the row of `dropped.jsonl`."""

    id: str
    stage: Stage
    reason: DropReason
    detail: str
    """One sentence for a person."""
    raw: str
    """The text that was rejected, unchanged."""


class DroppedStep(Record):
    """A text in a chain that became no side of a pair, and why; the row of `dropped_steps.jsonl`.

    The chain goes on without it.
    """

    id: str
    """The prompt's id."""
    edit: int
    """The last edit, from 1, that the text has."""
    edits: int
    """Edits of the whole revision."""
    reason: DropReason
    detail: str
    """One sentence for a person."""
    raw: str
    """The text."""


_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def canonical_json(value: Any) -> str:
    """The JSON text of a value with sorted keys and no spaces, of which digests are made."""
    return _CANONICAL.encode(value)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def prompt_id(messages: Sequence[Message]) -> str:
    """The id of a prompt: a digest of its messages and nothing else."""
    return digest([m.model_dump() for m in messages])[:16]
