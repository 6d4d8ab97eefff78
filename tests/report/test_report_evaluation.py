"""The page of an evaluation: self-contained, escaped, with answers side by side."""

import re

import pytest

from clair_apo.errors import RunError
from clair_apo.evaluation import evaluate
from clair_apo.report import write_evaluation_page
from tests.helpers.evaluations import Ruled, evaluation_config

EVIL = "<script>alert(1)</script> & so on.\n\nNext step: ask."


@pytest.fixture
def folder(tmp_path):
    config = evaluation_config(tmp_path)
    chats = {"trained": Ruled([EVIL]), "base": Ruled(["Endless...", None])}
    evaluate(config, chats=chats)
    return config.run_dir


def test_the_page_holds_tables_remarks_and_marked_answers(folder):
    page = write_evaluation_page(folder).read_text("utf-8")
    assert "trained - base" in page and "1.00 [" in page
    assert "base has no answer to 3 of 6 prompts" in page
    assert "fails next_step" in page and "ran into the token limit" in page
    assert "no answer: the server rejects it" in page


def test_what_a_model_wrote_is_text_and_nothing_is_fetched(folder):
    page = write_evaluation_page(folder).read_text("utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so on." in page
    assert "<script" not in page
    assert re.findall(r"(?:src|href)=", page) == []
    assert "default-src 'none'" in page


def test_the_same_evaluation_gives_the_same_page(folder):
    first = write_evaluation_page(folder).read_bytes()
    assert write_evaluation_page(folder).read_bytes() == first


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    with pytest.raises(RunError, match="run clair-apo evaluate first"):
        write_evaluation_page(tmp_path)
