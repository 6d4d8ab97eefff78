"""Where requests are rendered: Jinja in a sandbox, for what templates meet is untrusted text."""

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

SANDBOX = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, trim_blocks=True, keep_trailing_newline=False
)
"""Prompts, answers and rubrics are values of a template here, never part of it."""
