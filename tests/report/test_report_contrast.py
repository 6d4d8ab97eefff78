import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clair_apo.errors import DataError, RunError
from clair_apo.records import DropReason, Stage
from clair_apo.report import summarise
from clair_apo.report.contrast import MAX_BINS, length_histogram
from clair_apo.run_folder import RunFolder
from tests.helpers.report_runs import make_dropped, make_pair, make_run


def three_pairs():
    return [
        make_pair("a", jaccard=0.2, levenshtein=60, lengths=(100, 120)),
        make_pair("b", jaccard=0.8, levenshtein=10, lengths=(200, 190)),
        make_pair("c", jaccard=0.5, levenshtein=20, lengths=(400, 420)),
    ]


def statistic(summary, key):
    return next(row for row in summary.statistics if row.key == key)


def test_mean_spread_and_quartiles_are_those_computed_by_hand(tmp_path):
    jaccard = statistic(summarise(make_run(tmp_path, three_pairs())), "jaccard")
    assert jaccard.mean.n == 3
    assert jaccard.mean.mean == pytest.approx(0.5)
    sd = math.sqrt((0.3**2 + 0.3**2) / 2)
    assert jaccard.sd == pytest.approx(sd)
    half = 4.302653 * sd / math.sqrt(3)  # Student's t, 2 degrees of freedom, 97.5 %
    assert jaccard.mean.low == pytest.approx(0.5 - half, abs=1e-6)
    assert jaccard.mean.high == pytest.approx(0.5 + half, abs=1e-6)
    assert (jaccard.q1, jaccard.median, jaccard.q3) == pytest.approx((0.35, 0.5, 0.65))
    assert (jaccard.minimum, jaccard.maximum) == (0.2, 0.8)


def test_levenshtein_is_also_given_as_a_share_of_the_longer_side(tmp_path):
    summary = summarise(make_run(tmp_path, three_pairs()))
    share = (60 / 120 + 10 / 200 + 20 / 420) / 3
    assert statistic(summary, "levenshtein_share").mean.mean == pytest.approx(share)
    assert statistic(summary, "levenshtein").mean.mean == pytest.approx(30)


def test_length_change_is_chosen_minus_rejected(tmp_path):
    change = statistic(summarise(make_run(tmp_path, three_pairs())), "length_change")
    assert change.mean.mean == pytest.approx((20 - 10 + 20) / 3)
    assert (change.minimum, change.maximum) == (-10, 20)


def test_two_empty_sides_have_no_distance(tmp_path):
    pair = make_pair(levenshtein=0, lengths=(0, 0))
    summary = summarise(make_run(tmp_path, [pair]))
    assert statistic(summary, "levenshtein_share").mean.mean == 0


def test_one_pair_has_a_mean_but_neither_interval_nor_deviation(tmp_path):
    jaccard = statistic(summarise(make_run(tmp_path, three_pairs()[:1])), "jaccard")
    assert (jaccard.mean.mean, jaccard.median, jaccard.q1) == (0.2, 0.2, 0.2)
    assert (jaccard.mean.low, jaccard.mean.high, jaccard.sd) == (None, None, None)


def test_no_pairs_give_closed_counts_and_no_statistics(tmp_path):
    summary = summarise(make_run(tmp_path, dropped=[make_dropped()]))
    assert (summary.counts.prompts, summary.counts.pairs, summary.counts.dropped) == (1, 0, 1)
    assert summary.statistics == ()
    assert summary.lengths.edges == ()


def test_drops_are_counted_by_stage_and_reason_in_the_order_of_the_stages(tmp_path):
    dropped = [
        make_dropped("1", stage=Stage.PAIR, reason=DropReason.NO_OP),
        make_dropped("2", stage=Stage.REVISE, reason=DropReason.REFUSED),
        make_dropped("3", stage=Stage.REVISE, reason=DropReason.CUT),
        make_dropped("4", stage=Stage.PAIR, reason=DropReason.NO_OP),
        make_dropped("5", stage=Stage.RESPOND, reason=DropReason.CUT),
    ]
    counts = summarise(make_run(tmp_path, three_pairs(), dropped)).counts
    assert [(d.stage.value, d.reason.value, d.count) for d in counts.drops] == [
        ("respond", "cut", 1),
        ("revise", "cut", 1),
        ("revise", "refused", 1),
        ("pair", "no_op", 2),
    ]
    assert counts.prompts == counts.pairs + counts.dropped == 8


def test_a_duplicate_dropped_at_load_counts_as_a_prompt_in(tmp_path):
    duplicate = make_dropped(stage=Stage.LOAD, reason=DropReason.DUPLICATE)
    counts = summarise(make_run(tmp_path, three_pairs(), [duplicate])).counts
    assert (counts.prompts, counts.pairs, counts.dropped) == (4, 3, 1)


@pytest.mark.parametrize("file", ["prompts.jsonl", "pairs.jsonl", "dropped.jsonl"])
def test_a_lost_row_is_an_error_that_names_the_numbers(tmp_path, file):
    run = make_run(tmp_path, three_pairs(), [make_dropped("x"), make_dropped("y")])
    lines = run.file(file).read_text().splitlines(keepends=True)
    run.file(file).write_text("".join(lines[1:]))
    prompts, pairs, dropped = {
        "prompts.jsonl": (4, 3, 2),
        "pairs.jsonl": (5, 2, 2),
        "dropped.jsonl": (5, 3, 1),
    }[file]
    sentence = f"{prompts} prompts in, but {pairs} paired \\+ {dropped} dropped"
    with pytest.raises(RunError, match=sentence):
        summarise(run)


def test_a_folder_that_is_not_there_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(RunError, match=r"no such run folder.*clair-apo generate"):
        summarise(RunFolder(tmp_path / "nowhere"))


@pytest.mark.parametrize("file", ["prompts.jsonl", "pairs.jsonl", "dropped.jsonl", "manifest.json"])
def test_a_missing_file_is_named_with_what_to_run(tmp_path, file):
    run = make_run(tmp_path, three_pairs())
    run.file(file).unlink()
    with pytest.raises(RunError, match=f"no {file}; run `clair-apo generate`"):
        summarise(run)


def test_a_line_that_is_no_pair_is_named_by_file_and_line(tmp_path):
    run = make_run(tmp_path, three_pairs())
    run.file("pairs.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: not a PreferencePair"):
        summarise(run)


def test_the_tokenizer_is_the_manifests_or_the_stated_default(tmp_path):
    told = make_run(tmp_path / "told", three_pairs(), contrast_tokenizer="split at spaces")
    untold = make_run(tmp_path / "untold", three_pairs())
    assert summarise(told).tokenizer == "split at spaces"
    assert summarise(untold).tokenizer == "lower-cased words and punctuation"


def test_recipe_and_models_are_those_of_the_pairs_or_else_of_the_config(tmp_path):
    config = {"recipe": "r", "target": {"model": "t"}, "reviser": {"model": None}}
    pairs = summarise(make_run(tmp_path / "pairs", three_pairs(), config=config))
    none = summarise(make_run(tmp_path / "none", [], [make_dropped()], config=config))
    assert (pairs.recipes, pairs.rejected_from) == (("clair",), ("smollm2-135m",))
    assert pairs.chosen_from == ("a-strong-reviser",)
    assert (none.recipes, none.rejected_from, none.chosen_from) == (("r",), ("t",), ())


def test_bins_are_shared_round_and_half_open():
    lengths = length_histogram(rejected=[95, 100, 149, 150], chosen=[199, 300, 1050])
    # 20 bins of 50 would reach from 50 to 1,049: one too few, so the next round width is taken
    assert lengths.edges == tuple(range(0, 1101, 100))
    assert lengths.rejected == (1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert lengths.chosen == (0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1))
def test_every_length_stands_in_exactly_one_of_few_bins(sides):
    rejected, chosen = [r for r, _ in sides], [c for _, c in sides]
    lengths = length_histogram(rejected=rejected, chosen=chosen)
    edges = lengths.edges
    assert 2 <= len(edges) <= MAX_BINS + 1
    for values, counts in ((rejected, lengths.rejected), (chosen, lengths.chosen)):
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            assert count == sum(low <= value < high for value in values)
        assert sum(counts) == len(values)
