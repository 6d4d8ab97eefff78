"""Files that the documentation names are there."""

import re
import subprocess

import pytest

from tests.helpers import ROOT

OF_OTHERS = {"compare.md"}
"""Pages that name files of other projects."""
PAGES = sorted(
    page
    for page in [
        *ROOT.glob("docs/*.md"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("*/*.yaml"),
    ]
    if page.name not in OF_OTHERS
)
_NAMED = re.compile(r"`((?:[\w.-]+/)*[\w.*-]+\.(?:py|jinja|ipynb))`")
ELSEWHERE = re.compile(r"^trl/|^my_")
"""Files of TRL, and files that a reader is to write."""


def _tracked():
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [f"/{name}" for name in found.stdout.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page):
    tracked = _tracked()
    missing = []
    for name in sorted(set(_NAMED.findall(page.read_text("utf-8")))):
        pattern = re.compile(".*/" + re.escape(name).replace(r"\*", "[^/]*"))
        if not ELSEWHERE.search(name) and not any(pattern.fullmatch(one) for one in tracked):
            missing.append(name)
    assert not missing
