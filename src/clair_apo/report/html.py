"""What all pages have in common: escaped templates, one style, and a security policy."""

import base64
import functools
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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


class Part(NamedTuple):
    """A page as a part of a larger one."""

    id: str
    """Of its section; no other part of the page has it."""
    title: str
    header: Markup
    main: Markup


def render(template: str, values: Mapping[str, Any], script: str = "") -> str:
    """A page that asks nothing of the network.

    Args:
        template: of a page; it extends `page.html.jinja`.
        values: what the template shows. All are escaped.
        script: our own script, the only one that the page's security policy allows.
    """
    style = _asset("report.css")
    text = (
        environment()
        .get_template(template)
        .render(
            values,
            style=Markup(style),  # our own files, as they are
            style_source=_source_hash(style),
            script=Markup(script),
            script_source=_source_hash(script),
        )
    )
    return text + "\n"


def render_part(id: str, title: str, template: str, values: Mapping[str, Any]) -> Part:
    """What a page shows, without the frame of a page, for a larger page."""
    found = environment().get_template(template)
    context = found.new_context(dict(values))
    header, main = ("".join(found.blocks[name](context)) for name in ("header", "main"))
    return Part(id, title, Markup(header), Markup(main))  # every value in it is escaped already


def cut_text(text: str, most: int) -> str:
    """The first characters of a long text, and how many more there are."""
    return text if len(text) <= most else f"{text[:most]}\n[{len(text) - most:,} more characters]"


def pairs_script() -> str:
    """The script that searches, sorts and folds the cards of pairs."""
    return _asset("report.js")


def _asset(name: str) -> str:
    return files("clair_apo.report").joinpath("templates", name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """The hash with which a content security policy allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def image_source(svg: bytes) -> str:
    """An SVG file as a data URL."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
