import base64
import hashlib
import json
import re

import pytest

from clair_apo.errors import RunError
from clair_apo.records import STAGE_TITLES, DropReason, Message, Origin, Stage
from clair_apo.report import ContrastSummary, write_report
from clair_apo.report import pairs_page as page_module
from clair_apo.report import write as write_module
from clair_apo.report.pairs_page import MAX_CARDS, MAX_TEXT, REASON_SENTENCES
from tests.helpers.report_runs import Page, make_dropped, make_pair, make_run

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><b>bold</b>",
    '"><img src=x onerror="alert(1)">',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- & &amp; &#60;b&#62;",
]


def page_of(path, *args, **manifest):
    make_run(path, *args, **manifest)
    return Page(write_report(path).page.read_text(encoding="utf-8"))


def test_both_files_are_written_and_the_numbers_can_be_read_back(tmp_path):
    make_run(tmp_path, [make_pair("a"), make_pair("b")], [make_dropped()])
    report = write_report(tmp_path)
    assert report.contrast == tmp_path / "contrast.json"
    assert report.page == tmp_path / "report.html"
    content = json.loads(report.contrast.read_text())
    assert content["counts"]["prompts"] == 3
    assert ContrastSummary.model_validate(content) == report.summary


def test_the_same_run_gives_the_same_bytes(tmp_path):
    make_run(tmp_path, [make_pair(str(n)) for n in range(MAX_CARDS + 20)], [make_dropped()])
    first = write_report(tmp_path)
    before = (first.contrast.read_bytes(), first.page.read_bytes())
    second = write_report(tmp_path)
    assert (second.contrast.read_bytes(), second.page.read_bytes()) == before


def test_the_page_states_counts_models_tokenizer_and_numbers(tmp_path):
    pairs = [make_pair("a", jaccard=0.25), make_pair("b", jaccard=0.75)]
    page = page_of(tmp_path / "tone", pairs, [make_dropped()], contrast_tokenizer="by spaces")
    text = " ".join(page.text.split())
    assert "3 prompts in = 2 pairs + 1 dropped" in text
    for fact in ("tone", "clair", "smollm2-135m", "a-strong-reviser", "by spaces", "0.500"):
        assert fact in text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stands_on_the_page_as_text_wherever_it_comes_from(tmp_path, text):
    harmless = page_of(
        tmp_path / "harmless",
        [make_pair("x", rejected="x y", chosen="x z", rationale="x")],
        [make_dropped("x", detail="x", raw="x")],
    )
    name = text.replace("/", "\N{FRACTION SLASH}")  # a folder's name has no slash
    page = page_of(
        tmp_path / name,
        [make_pair(text, rejected=text + " y", chosen=text + " z", rationale=text, id=text)],
        [make_dropped(text, detail=text, raw=text)],
        contrast_tokenizer=text,
    )
    assert page.tags() == harmless.tags()
    assert [set(a) for _, a in page.elements] == [set(a) for _, a in harmless.elements]
    assert page.articles("pair")[0]["data-id"] == text
    assert page.searchable[:5] == [text, text, text + " y", text + " z", text]
    assert page.searchable[5:] == [text, "cut", "Revision", text, text]
    assert text in page.text and name in page.text


def test_hostile_model_names_stand_on_the_page_as_text(tmp_path):
    pair = make_pair()
    chosen = Origin(kind="revision", model=HOSTILE[0])
    provenance = pair.provenance.model_copy(update={"chosen": chosen})
    page = page_of(tmp_path, [pair.model_copy(update={"provenance": provenance})])
    assert page.tags().count("script") == 1
    assert HOSTILE[0] in page.text


def test_the_answers_on_the_page_are_whole_to_the_last_blank(tmp_path):
    rejected, chosen = "\n\n one  two\n\tthree ", "\n\n one two\n\n\tfour  "
    page = page_of(tmp_path, [make_pair("q", rejected=rejected, chosen=chosen)])
    assert page.searchable[2:4] == [rejected, chosen]
    assert {"del", "ins"} <= set(page.tags())


def test_every_turn_of_a_conversation_is_shown_with_its_role(tmp_path):
    turns = (Message(role="system", content="Be brief."), Message(role="user", content="Hello?"))
    page = page_of(tmp_path, [make_pair().model_copy(update={"prompt": turns})])
    assert page.searchable[1:3] == ["Be brief.", "Hello?"]
    assert re.search(r"system\s+Be brief\.\s+user\s+Hello\?", page.text)


def test_a_run_without_pairs_has_a_page_that_says_so(tmp_path):
    page = page_of(tmp_path, [], [make_dropped()])
    assert "There are no pairs" in page.text
    assert page.articles("pair") == []
    assert len(page.articles("dropped")) == 1
    assert "svg" not in page.tags()


def test_an_empty_run_has_a_page(tmp_path):
    assert "No prompt was dropped." in page_of(tmp_path).text


def test_a_run_of_more_pairs_shows_a_stated_sample_and_measures_all(tmp_path):
    many = MAX_CARDS + 7
    pairs = [make_pair(str(n), lengths=(n, n)) for n in range(many)]
    dropped = [make_dropped(str(n)) for n in range(many)]
    page = page_of(tmp_path, pairs, dropped)
    shown = [card["data-id"] for card in page.articles("pair")]
    assert len(shown) == len(set(shown)) == MAX_CARDS
    assert set(shown) < {pair.id for pair in pairs}
    assert len(page.articles("dropped")) == MAX_CARDS
    assert f"A random sample of {MAX_CARDS} of all {many} pairs" in page.text
    assert f"A random sample of {MAX_CARDS} of all {many} dropped prompts" in page.text
    content = json.loads((tmp_path / "contrast.json").read_text())
    assert content["statistics"][0]["mean"]["n"] == many
    assert sum(content["lengths"]["chosen"]) == many


def test_a_run_that_fits_is_shown_whole_in_the_order_of_ids(tmp_path):
    page = page_of(tmp_path, [make_pair(str(n)) for n in range(MAX_CARDS)])
    shown = [card["data-id"] for card in page.articles("pair")]
    assert shown == sorted(shown) and len(shown) == MAX_CARDS
    assert "random sample" not in page.text


def test_the_cards_carry_the_numbers_they_are_sorted_by(tmp_path):
    pair = make_pair(jaccard=0.125, levenshtein=1234, lengths=(3000, 2500))
    page = page_of(tmp_path, [pair])
    card = page.articles("pair")[0]
    assert (card["data-jaccard"], card["data-levenshtein"]) == ("0.125", "1234")
    assert card["data-change"] == "-500"
    assert "1,234" in page.text and "41\xa0%" in page.text  # 1,234 of 3,000


def test_the_policy_allows_the_pages_own_style_and_script_and_no_network(tmp_path):
    make_run(tmp_path, [make_pair()])
    html = write_report(tmp_path).page.read_text(encoding="utf-8")
    policy = next(
        attributes["content"]
        for tag, attributes in Page(html).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_nothing_on_the_page_is_fetched_from_elsewhere(tmp_path):
    page = page_of(tmp_path, [make_pair()], [make_dropped()])
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert addresses == ["#dropped-title"]
    assert not {"link", "iframe", "object", "embed", "img"} & set(page.tags())


def test_every_input_has_a_label(tmp_path):
    page = page_of(tmp_path, [make_pair()])
    labelled = {a["for"] for tag, a in page.elements if tag == "label"}
    inputs = {a["id"] for tag, a in page.elements if tag in ("input", "select")}
    assert inputs == labelled == {"search", "sort"}


def test_every_stage_and_reason_has_words_for_a_person():
    assert set(STAGE_TITLES) == set(Stage)
    assert set(REASON_SENTENCES) == set(DropReason)


def test_a_page_that_cannot_be_made_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    run = make_run(tmp_path, [make_pair()])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*_):
        raise RuntimeError("no page")

    monkeypatch.setattr(write_module, "render_page", fail)
    with pytest.raises(RuntimeError, match="no page"):
        write_report(run.path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_run_whose_counts_do_not_close_gets_no_report(tmp_path):
    run = make_run(tmp_path, [make_pair()])
    run.file("pairs.jsonl").write_text("")
    with pytest.raises(RunError, match="do not close"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "contrast.json").exists()


def test_a_text_of_a_million_characters_is_cut_on_the_page_and_measured_whole(tmp_path):
    long = "word " * 200_000
    pair = make_pair(rejected=long, chosen=long + "end", levenshtein=3)
    page = page_of(tmp_path, [pair], [make_dropped(raw=long)])
    assert len(page.text) < 4 * MAX_TEXT
    left_out = len(long) - MAX_TEXT
    assert f"[{left_out:,} more characters]" in page.text
    assert f"[{left_out + 3:,} more characters]" in page.text
    assert f"{len(long):,} → {len(long) + 3:,}" in page.text


def test_a_page_of_long_texts_shows_fewer_pairs_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MAX_PAGE", 20_000)
    pairs = [make_pair(str(n), rejected=f"{n} " * 1000) for n in range(10, 30)]
    dropped = [make_dropped(str(n), raw="x" * 30_000) for n in range(3)]
    page = page_of(tmp_path, pairs, dropped)
    shown = page.articles("pair")
    assert 1 < len(shown) < 8
    assert f"A random sample of {len(shown)} of all 20 pairs" in page.text
    assert "A random sample of 1 of all 3 dropped prompts" in page.text


def test_how_far_a_report_is_stands_on_standard_error(tmp_path, capsys):
    make_run(tmp_path, [make_pair("a"), make_pair("b")], [make_dropped()])
    write_report(tmp_path)
    # 2 pairs and 1 dropped prompt are read for the numbers and for the page, 3 prompts once
    assert "report: 9 of 9 rows" in capsys.readouterr().err
