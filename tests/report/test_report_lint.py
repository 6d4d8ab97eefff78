"""The files of a lint: numbers that come back, a page that is self-contained and escaped."""

import re

import pytest

from clair_apo.errors import WriteError
from clair_apo.lint import LintReport
from clair_apo.report import lint_folder, write_lint
from tests.helpers.lint_pairs import linted, sound_pairs

EVIL = '<script>alert("1")</script> & <img src=x onerror=alert(2)>'


@pytest.fixture
def report(tmp_path):
    rows = sound_pairs(20)
    rows[4] |= {"chosen": EVIL, "rejected": EVIL}
    rows[7]["chosen"] = " "
    return linted(tmp_path, rows)


def test_the_numbers_come_back_as_they_were(tmp_path, report):
    write_lint(report, tmp_path / "out")
    read = (tmp_path / "out" / "lint.json").read_text("utf-8")
    assert LintReport.model_validate_json(read) == report


def test_the_page_shows_findings_their_figures_and_their_rows(tmp_path, report):
    page = write_lint(report, tmp_path).read_text("utf-8")
    assert "1 of 19" in page and "identical_sides" in page
    assert "pairs.jsonl:5" in page and "pairs.jsonl:8" in page
    assert "cohens_d" in page
    assert "&#39;chosen&#39; is empty; remove the row or fill it in" in page


def test_what_the_data_holds_is_text_and_nothing_is_fetched(tmp_path, report):
    page = write_lint(report, tmp_path).read_text("utf-8")
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; &amp; &lt;img" in page
    assert "<script" not in page and "<img" not in page
    assert all(link.startswith('href="#') for link in re.findall(r'(?:src|href)="[^"]*"', page))
    assert "default-src 'none'" in page


def test_the_same_report_gives_the_same_bytes(tmp_path, report):
    first = write_lint(report, tmp_path).read_bytes()
    assert write_lint(report, tmp_path).read_bytes() == first


def test_a_folder_that_cannot_be_made_is_named(tmp_path, report):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        write_lint(report, tmp_path / "file" / "out")


def test_the_files_go_into_a_run_and_else_beside_the_user(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pairs.jsonl").write_text("")
    assert lint_folder(str(tmp_path / "run")) == tmp_path / "run"
    assert str(lint_folder(str(tmp_path / "run" / "pairs.jsonl"))) == "lint/pairs"
    (tmp_path / "saved.v2").mkdir()
    assert str(lint_folder(str(tmp_path / "saved.v2"))) == "lint/saved.v2"
    assert str(lint_folder("org/name")) == "lint/name"
