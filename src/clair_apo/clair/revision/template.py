"""Renders the request to a reviser from a Jinja template, in a sandbox.

Prompts and answers are untrusted text: they are values of the template, never part of it.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from jinja2 import Template
from jinja2.meta import find_undeclared_variables

from clair_apo.clair.revision.segments import numbered
from clair_apo.config import read_text
from clair_apo.errors import ConfigError
from clair_apo.llm.judge import SANDBOX, load_rubric
from clair_apo.records import Conversation, Direction, Message, RevisionFormat, digest


@dataclass(frozen=True)
class RevisionTemplate:
    """A reviser's instructions with the rubric that they are to serve.

    Attributes:
        format: how the reviser is asked to reply.
        source: the Jinja text; it may use `conversation` (messages), `answer`, `rubric`,
            `direction`, `keep_length` and, in the format `segments`, `numbered`: the answer with
            its segments between tags that bear their numbers.
        rubric: the preference in plain words; empty asks for a better answer in general.
        direction: whether the reviser improves the answer or worsens it.
        keep_length: ask for about the same length.
        name: where the source is from, for errors.
    """

    format: RevisionFormat
    source: str
    rubric: str
    name: str
    direction: Direction = "improve"
    keep_length: bool = False

    @cached_property
    def digest(self) -> str:
        """Changes with every change of what is asked for; 16 hex digits."""
        wanted = [self.format, self.source, self.rubric, self.direction, self.keep_length]
        return digest(wanted)[:16]

    @cached_property
    def _compiled(self) -> Template:
        return SANDBOX.from_string(self.source)

    def render(self, conversation: Conversation, answer: str) -> Conversation:
        """Render the messages that ask for a revision of `answer`: one user turn.

        Raises:
            ConfigError: the template is faulty or uses a variable that there is not.
        """
        shown = {"numbered": numbered(answer)} if self.format == "segments" else {}
        try:
            text = self._compiled.render(
                conversation=[message.model_dump() for message in conversation],
                answer=answer,
                rubric=self.rubric,
                direction=self.direction,
                keep_length=self.keep_length,
                **shown,
            )
        except Exception as error:  # a user's template can divide by zero, and more
            raise ConfigError(f"template {self.name}: {error}") from None
        return (Message(role="user", content=text.strip()),)


def load_template(
    format: RevisionFormat,
    *,
    template: Path | None = None,
    rubric: Path | None = None,
    direction: Direction = "improve",
    keep_length: bool = False,
) -> RevisionTemplate:
    """Load the package's template for a format, or one of the user's own.

    Args:
        format: `full`, `edits` or `segments`.
        template: a Jinja file in place of the package's.
        rubric: a text file with the preference in plain words.
        direction: `improve` or `worsen`.
        keep_length: ask for about the same length.

    Raises:
        ConfigError: a file cannot be read, or the template does not render.
    """
    if template is None:
        source = (
            resources.files(__package__).joinpath(f"templates/{format}.jinja").read_text("utf-8")
        )
    else:
        source = read_text(template)
    loaded = RevisionTemplate(
        format=format,
        source=source,
        rubric=load_rubric(rubric),
        name=str(template or format),
        direction=direction,
        keep_length=keep_length,
    )
    # a faulty template is found here, before the target model is paid for its answers
    loaded.render((Message(role="user", content="prompt"),), "answer")
    used = find_undeclared_variables(SANDBOX.parse(source))
    wanted = {
        "numbered" if format == "segments" else "answer": True,
        "rubric": bool(loaded.rubric),
        "direction": direction != "improve",
        "keep_length": keep_length,
    }
    for name, needed in wanted.items():
        if needed and name not in used:
            raise ConfigError(f"template {loaded.name}: does not use {{{{ {name} }}}}")
    return loaded
