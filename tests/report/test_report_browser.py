"""The page in a real browser: headless Chromium, no driver, the DOM read back as text."""

import json
from pathlib import Path

import pytest

from clair_apo.report import write_report
from tests.helpers.browser import driven, dumped
from tests.helpers.report_runs import Page, make_dropped, make_pair, make_run

pytestmark = pytest.mark.real

MARK = "document.documentElement.setAttribute('data-marker-ran', 'yes')"
HOSTILE = [
    f"<script>{MARK}</script>",
    f"</script><script>{MARK}</script>",
    f"</style></div></article><script>{MARK}</script>",
    f'"><img src=x onerror="{MARK}">',
    f'\'><svg onload="{MARK}">',
    f'<iframe srcdoc="<script>parent.{MARK}</script>"></iframe>',
    f'<a href="javascript:{MARK}" autofocus onfocus="{MARK}">link</a>',
]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    pairs = [
        make_pair("Descale a kettle", id="b", jaccard=0.5, levenshtein=9, lengths=(10, 30)),
        make_pair("Mend a sock", id="a", jaccard=0.9, levenshtein=100, lengths=(30, 10)),
        make_pair("Sow beans", id="c", jaccard=0.1, levenshtein=20, lengths=(10, 12)),
    ]
    dropped = [
        make_dropped("d", detail="no tag in the reply", raw="x" * 300 + " about the KETTLE"),
        make_dropped("e", detail="the reviser declined", raw="Sorry."),
    ]
    make_run(tmp_path / "run", pairs, dropped)
    return write_report(tmp_path / "run").page


def test_hostile_text_becomes_no_element_and_runs_nothing(tmp_path):
    """About 3 s, the browser's first start included."""
    pairs = [
        make_pair(text, rejected=text + " old", chosen=text + " new", rationale=text, id=text)
        for text in HOSTILE
    ]
    dropped = [make_dropped(text, detail=text, raw=text) for text in HOSTILE]
    name = HOSTILE[0].replace("/", "\N{FRACTION SLASH}")
    make_run(tmp_path / name, pairs, dropped, contrast_tokenizer=HOSTILE[1])
    written = write_report(tmp_path / name).page.rename(tmp_path / "report.html")
    html = dumped(written.as_uri(), tmp_path / "home")
    page = Page(html)
    assert "data-marker-ran" not in dict(page.elements)["html"]
    assert page.tags().count("script") == 1
    assert not {"img", "iframe", "link", "object"} & set(page.tags())
    assert page.tags().count("svg") == 1  # the histogram
    assert {n for _, a in page.elements for n in a if n.startswith("on")} == set()
    assert sorted(str(card["data-id"]) for card in page.articles("pair")) == sorted(HOSTILE)
    # the page's own script did run, on this very text
    assert f"{len(HOSTILE)} of {len(HOSTILE)} pairs" in page.text


def test_an_injected_script_would_be_stopped_by_the_policy(report, tmp_path):
    """About 1 s. The second lock: even where escaping failed, only the page's own script runs."""
    html = report.read_text(encoding="utf-8")
    broken = html.replace("<main>", f'<main><script>{MARK}</script><img src=x onerror="{MARK}">')
    report.write_text(broken, encoding="utf-8")
    page = Page(dumped(report.as_uri(), tmp_path / "home"))
    assert "data-marker-ran" not in dict(page.elements)["html"]
    assert page.tags().count("script") == 2  # it was there to be run
    assert "3 of 3 pairs" in page.text


def test_a_link_with_a_search_shows_just_what_it_finds(report, tmp_path):
    """About 1 s."""
    address = report.as_uri() + "#q=kettle"
    page = Page(dumped(address, tmp_path / "home"))
    hidden = {card["data-id"]: "hidden" in card for card in page.articles("pair")}
    assert hidden == {"a": True, "b": False, "c": True}
    assert "1 of 3 pairs, 1 of 2 dropped" in page.text
    assert ["hidden" in card for card in page.articles("dropped")] == [False, True]


@pytest.mark.parametrize(
    ("order", "ids"),
    [
        ("id-asc", "abc"),
        ("id-desc", "cba"),
        ("jaccard-asc", "cba"),
        ("jaccard-desc", "abc"),
        ("levenshtein-asc", "bca"),
        ("levenshtein-desc", "acb"),
        ("change-asc", "acb"),
        ("change-desc", "bca"),
    ],
)
def test_a_link_with_an_order_shows_the_pairs_in_it(report, tmp_path, order, ids):
    """About 1 s each."""
    page = Page(dumped(f"{report.as_uri()}#sort={order}", tmp_path / "home"))
    assert [card["data-id"] for card in page.articles("pair")] == list(ids)


def test_a_link_with_an_unknown_order_falls_back_to_the_first(report, tmp_path):
    """About 1 s."""
    steps = 'return [page.getElementById("sort").value, shown("pair")];'
    seen = driven(report, tmp_path, steps, fragment="#sort=nonsense-desc")
    assert seen == ["id-asc", ["a", "b", "c"]]


def test_typing_and_choosing_filter_sort_and_make_the_link(report, tmp_path):
    """About 1 s."""
    steps = """
      change("sort", "levenshtein-desc", "change");
      const sorted = shown("pair");
      change("search", "  KETTLE ", "input");
      const details = page.querySelector("article.dropped details").open;
      const found = [shown("pair"), shown("dropped"), details];
      const link = page.location.hash;
      change("search", "no such words", "input");
      const none = [shown("pair"), page.getElementById("no-pairs").hidden];
      change("search", "", "input");
      return { sorted, found, link, none, all: shown("pair") };
    """
    seen = driven(report, tmp_path, steps)
    assert seen["sorted"] == ["a", "c", "b"]
    assert seen["found"] == [["b"], ["d"], True]
    assert seen["link"] == "#q=++KETTLE+&sort=levenshtein-desc"
    assert seen["none"] == [[], False]
    assert seen["all"] == ["a", "c", "b"]


@pytest.mark.parametrize("words", ["rinse twice", "Boil vinegar", "amounts were", "Sow beans"])
def test_the_search_looks_into_answers_rationale_and_prompt(report, tmp_path, words):
    """About 1 s each."""
    steps = f'change("search", {json.dumps(words)}, "input"); return shown("pair");'
    expected = ["c"] if words == "Sow beans" else ["a", "b", "c"]
    assert driven(report, tmp_path, steps) == expected


def test_the_page_can_be_folded_to_its_prompts(report, tmp_path):
    """About 1 s."""
    steps = """
      const button = page.getElementById("fold");
      const heights = () => [...page.querySelectorAll(".sides")].map((side) => side.offsetHeight);
      const before = heights();
      button.click();
      const folded = [heights(), button.getAttribute("aria-pressed")];
      button.click();
      return { before, folded, after: heights() };
    """
    seen = driven(report, tmp_path, steps)
    assert min(seen["before"]) > 0
    assert seen["folded"] == [[0, 0, 0], "true"]
    assert seen["after"] == seen["before"]


def test_nothing_reaches_over_the_edge_of_a_phone(tmp_path):
    """About 1 s."""
    long = "a" * 400
    pairs = [
        make_pair(long, rejected=long, chosen=long + "b" * 300, rationale=long, id=long),
        make_pair("x", jaccard=0.001, levenshtein=123456, lengths=(1_000_000, 9_999_999)),
    ]
    make_run(tmp_path / long[:200], pairs, [make_dropped(long, detail=long, raw=long)])
    page = write_report(tmp_path / long[:200]).page
    steps = """
      const root = page.documentElement;
      const over = [...page.body.querySelectorAll("*")].filter(
        (element) => element.getBoundingClientRect().right > root.clientWidth + 1);
      return { width: root.clientWidth, needed: root.scrollWidth,
               over: over.map((element) => element.tagName + "." + element.className) };
    """
    assert driven(page, tmp_path, steps, width=390) == {"width": 390, "needed": 390, "over": []}
