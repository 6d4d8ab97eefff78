"""What both pages have in common: escaped templates, assets, and hashes for a security policy."""

import base64
import functools
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from clair_apo.report.terminal import numeral


@functools.cache
def environment() -> Environment:
    """The environment of the templates: every value is escaped, an unknown one is an error."""
    found = Environment(
        loader=PackageLoader("clair_apo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["numeral"] = numeral
    return found


def asset(name: str) -> str:
    """The text of a style sheet or script of ours."""
    return files("clair_apo.report").joinpath("templates", name).read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    """The hash with which a content security policy allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def image_source(svg: bytes) -> str:
    """An SVG file as a data URL."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
