"""Run folders as the generator leaves them, and a reader of pages, for the tests of the report."""

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from clair_apo.files import write_jsonl
from clair_apo.records import (
    Contrast,
    Dropped,
    DropReason,
    Message,
    Origin,
    PreferencePair,
    Prompt,
    Provenance,
    Stage,
    prompt_id,
)
from clair_apo.run_folder import RunFolder, write_json

VOID = {"meta", "input", "img", "br", "link", "hr"}


def make_pair(
    prompt: str = "How do I descale a kettle?",
    *,
    rejected: str = "Boil vinegar in it and rinse.",
    chosen: str = "Boil one part vinegar in it, then rinse twice.",
    rationale: str = "Amounts were missing.",
    jaccard: float = 0.5,
    levenshtein: int = 20,
    lengths: tuple[int, int] | None = None,
    id: str | None = None,
) -> PreferencePair:
    messages = (Message(role="user", content=prompt),)
    before, after = lengths or (len(rejected), len(chosen))
    return PreferencePair(
        id=id or prompt_id(messages),
        recipe="clair",
        prompt=messages,
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        rationale=rationale,
        contrast=Contrast(
            jaccard=jaccard,
            levenshtein=levenshtein,
            rejected_characters=before,
            chosen_characters=after,
        ),
        provenance=Provenance(
            source="prompts.jsonl:1",
            chosen=Origin(kind="revision", model="a-strong-reviser", request_keys=("2" * 64,)),
            rejected=Origin(kind="response", model="smollm2-135m", request_keys=("1" * 64,)),
            format="edits",
            direction="improve",
            template_digest="0" * 64,
        ),
    )


def make_dropped(
    id: str = "dddd",
    *,
    stage: Stage = Stage.REVISE,
    reason: DropReason = DropReason.CUT,
    detail: str = "the revision ran into its limit of 512 tokens",
    raw: str = "Boil one part",
) -> Dropped:
    return Dropped(id=id, stage=stage, reason=reason, detail=detail, raw=raw)


def make_run(
    path: Path,
    pairs: Sequence[PreferencePair] = (),
    dropped: Sequence[Dropped] = (),
    **manifest: Any,
) -> RunFolder:
    """A run whose counts close: what the load stage dropped is not in `prompts.jsonl`."""
    lost = [row for row in dropped if row.stage is not Stage.LOAD]
    turn = (Message(role="user", content="any"),)
    ids = [pair.id for pair in pairs] + [row.id for row in lost]
    write_jsonl(path / "prompts.jsonl", [Prompt(id=i, messages=turn, source="x") for i in ids])
    write_jsonl(path / "pairs.jsonl", pairs)
    write_jsonl(path / "dropped.jsonl", dropped)
    write_json(path / "manifest.json", manifest)
    return RunFolder(path)


class Page(HTMLParser):
    """A page taken apart: its elements, and the text of those that the search looks through."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.searchable: list[str] = []
        self.text = ""
        self._open: list[bool] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            marked = "data-search" in dict(attrs)
            self._open.append(marked)
            if marked:
                self.searchable.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        if any(self._open):
            self.searchable[-1] += data

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    def articles(self, kind: str) -> list[dict[str, str | None]]:
        """The attributes of all cards of a kind, in the order of the page."""
        return [a for tag, a in self.elements if tag == "article" and a.get("class") == kind]
