"""The words in which a reviser is asked: Jinja files, rendered in a sandbox.

Prompts and answers are untrusted text: they are values of the template, never part of it.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from jinja2 import StrictUndefined
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from clair_apo.errors import ConfigError
from clair_apo.records import Conversation, Message, RevisionFormat, digest

_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, trim_blocks=True, keep_trailing_newline=False
)


@dataclass(frozen=True)
class RevisionTemplate:
    """A reviser's instructions with the rubric that they are to serve.

    Attributes:
        format: how the reviser is asked to reply.
        source: the Jinja text; it may use `conversation` (messages), `answer` and `rubric`.
        rubric: the preference in plain words; empty asks for a better answer in general.
        name: where the source is from, for errors.
    """

    format: RevisionFormat
    source: str
    rubric: str
    name: str

    @cached_property
    def digest(self) -> str:
        """Changes with every change of template or rubric; 16 hex digits."""
        return digest([self.format, self.source, self.rubric])[:16]

    def render(self, conversation: Conversation, answer: str) -> Conversation:
        """The messages that ask for a revision of `answer`: one user turn.

        Raises:
            ConfigError: the template is faulty or uses a variable that there is not.
        """
        try:
            text = _ENVIRONMENT.from_string(self.source).render(
                conversation=[message.model_dump() for message in conversation],
                answer=answer,
                rubric=self.rubric,
            )
        except Exception as error:  # a user's template can divide by zero, and more
            raise ConfigError(f"template {self.name}: {error}") from None
        return (Message(role="user", content=text.strip()),)


def load_template(
    format: RevisionFormat, *, template: Path | None = None, rubric: Path | None = None
) -> RevisionTemplate:
    """Load the package's template for a format, or one of the user's own.

    Args:
        format: `full` or `edits`.
        template: a Jinja file in place of the package's.
        rubric: a text file with the preference in plain words.

    Raises:
        ConfigError: a file cannot be read, or the template does not render.
    """
    if template is None:
        source = (
            resources.files(__package__).joinpath(f"templates/{format}.jinja").read_text("utf-8")
        )
    else:
        source = _read(template)
    loaded = RevisionTemplate(
        format=format,
        source=source,
        rubric=_read_rubric(rubric) if rubric else "",
        name=str(template or format),
    )
    # a faulty template is found here, before the target model is paid for its answers
    loaded.render((Message(role="user", content="prompt"),), "answer")
    used = find_undeclared_variables(_ENVIRONMENT.parse(source))
    for name in ("answer", "rubric") if loaded.rubric else ("answer",):
        if name not in used:
            raise ConfigError(f"template {loaded.name}: does not use {{{{ {name} }}}}")
    return loaded


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None


def _read_rubric(path: Path) -> str:
    rubric = _read(path).strip()
    if not rubric:
        raise ConfigError(f"{path}: the rubric has no text")
    return rubric
