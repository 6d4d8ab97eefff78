"""The rows that an advice rests on: chosen answers judged against the model's own samples."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from clair_apo.errors import DataError
from clair_apo.files import read_jsonl
from clair_apo.records import Record, Text


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
_Characters = Annotated[int, Field(ge=0)]


class JudgedSample(Record):
    """A chosen answer judged against the model's own sample; the row of `comparisons.jsonl`.

    Rows of other programs may have more fields, which are left out.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt_id: Annotated[str, BeforeValidator(_as_text)]
    """Rows of the same prompt are not independent of each other."""
    chosen_share: _Share
    """What the chosen answer won: 1, 0.5 for a tie, 0, or anything between; in both orders their
    mean."""
    consistent: bool = Field(strict=True)
    """Whether both orders said the same."""
    chosen: Text | None = None
    """The chosen answer; None where only the judgement was given, as in the next field."""
    sample: Text | None = None
    """The model's sample."""
    chosen_characters: _Characters | None = None
    """Length of the chosen answer; by default that of its text."""
    sample_characters: _Characters | None = None
    """Length of the model's sample; by default that of its text."""
    first_place: _Share | None = None
    """The share of verdicts for the answer that was shown first, of those for one of the two."""

    @property
    def lengths(self) -> tuple[int, int] | None:
        """Characters of the chosen answer and of the sample; None where one is not known."""
        chosen = _length(self.chosen_characters, self.chosen)
        sample = _length(self.sample_characters, self.sample)
        return None if chosen is None or sample is None else (chosen, sample)


def _length(characters: int | None, text: str | None) -> int | None:
    return len(text) if characters is None and text is not None else characters


def read_comparisons(path: Path) -> list[JudgedSample]:
    """Read given judgements.

    Raises:
        DataError: the file cannot be read, a line is no such row (named with its number), or there
            is none.
    """
    rows = list(read_jsonl(path, JudgedSample))
    if not rows:
        raise DataError(
            f"{path}: holds no comparisons; expected lines with prompt_id, chosen_share (0 to 1) "
            "and consistent (true or false)"
        )
    return rows
