import io

import pytest
from rich.console import Console

from clair_apo.records import DropReason, Stage
from clair_apo.report import contrast_table, counts_line, summarise
from clair_apo.report.terminal import numeral
from tests.helpers.report_runs import make_dropped, make_pair, make_run


def printed(summary):
    console = Console(width=80, file=io.StringIO())
    console.print(contrast_table(summary))
    return console.file.getvalue()


def test_the_counts_line_closes_and_adds_up_a_reason_over_its_stages(tmp_path):
    dropped = [
        make_dropped("1", stage=Stage.RESPOND, reason=DropReason.CUT),
        make_dropped("2", stage=Stage.PAIR, reason=DropReason.NO_OP),
        make_dropped("3", stage=Stage.REVISE, reason=DropReason.CUT),
    ]
    summary = summarise(make_run(tmp_path, [make_pair("a"), make_pair("b")], dropped))
    assert counts_line(summary) == "5 prompts in = 2 pairs + 3 dropped (cut 2, no_op 1)"


def test_the_counts_line_of_a_run_without_drops_names_no_reason(tmp_path):
    summary = summarise(make_run(tmp_path, [make_pair()]))
    assert counts_line(summary) == "1 prompts in = 1 pairs + 0 dropped"


def test_the_table_has_a_line_for_each_statistic_within_80_columns(tmp_path):
    pairs = [
        make_pair("a", jaccard=0.25, levenshtein=1500, lengths=(2000, 2400)),
        make_pair("b", jaccard=0.75, levenshtein=1700, lengths=(2000, 2600)),
    ]
    text = printed(summarise(make_run(tmp_path, pairs, contrast_tokenizer="words [a-z]+ only")))
    lines = {line[:20].strip(): line.split() for line in text.splitlines()}
    assert "n = 2 pairs" in text
    # the interval: 12.706 standard errors (t, 1 degree of freedom) of 0.25 to either side
    half = 12.706205 * 0.25
    interval = [f"\N{MINUS SIGN}{half - 0.5:.3f}", "to", f"{0.5 + half:.3f}"]
    assert lines["Jaccard similarity"][2:] == [
        "0.500",
        *interval,
        "0.354",
        "0.375",
        "0.500",
        "0.625",
    ]
    assert lines["Levenshtein distance"][2] == "1,600"
    assert lines["Length change"][2] == "+500"
    assert "words [a-z]+ only" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_table_of_a_run_without_pairs_says_so(tmp_path):
    assert "n = 0 pairs" in printed(summarise(make_run(tmp_path, [], [make_dropped()])))


def test_a_small_mean_of_characters_keeps_one_place(tmp_path):
    pairs = [make_pair("a", lengths=(200, 204)), make_pair("b", lengths=(200, 201))]
    lines = printed(summarise(make_run(tmp_path, pairs))).splitlines()
    means = {line[:20].strip(): line.split()[2] for line in lines if " length " in f"{line[:20]} "}
    assert means == {"Rejected length": "200", "Chosen length": "202"}  # 202.5, to the even one
    change = next(line for line in lines if line.startswith("Length change"))
    assert change.split()[2] == "+2.5"


def test_one_pair_shows_dashes_for_interval_and_deviation(tmp_path):
    text = printed(summarise(make_run(tmp_path, [make_pair(jaccard=0.5)])))
    line = next(line for line in text.splitlines() if line.startswith("Jaccard similarity"))
    assert line.split()[2:] == ["0.500", "\N{EN DASH}", "\N{EN DASH}", "0.500", "0.500", "0.500"]


@pytest.mark.parametrize(
    ("value", "places", "plus", "written"),
    [
        (1234.5678, 0, False, "1,235"),
        (0.28449, 3, False, "0.284"),
        (-12.34, 1, True, "\N{MINUS SIGN}12.3"),
        (12.34, 1, True, "+12.3"),
        (-0.0001, 3, True, "0.000"),
    ],
)
def test_a_numeral_is_written(value, places, plus, written):
    assert numeral(value, places, plus=plus) == written
