import pytest

from clair_apo.report import summarise
from clair_apo.report.pairs_page import LEFT, MAX_TICKS, PANEL_HEIGHT, RIGHT, WIDTH, length_figure
from tests.helpers.report_runs import make_dropped, make_pair, make_run


def figure_of(path, lengths):
    pairs = [make_pair(str(n), lengths=sides) for n, sides in enumerate(lengths)]
    return length_figure(summarise(make_run(path, pairs, [make_dropped()])))


def test_a_bar_stands_over_its_bin_and_is_as_high_as_its_share_of_the_highest(tmp_path):
    figure = figure_of(tmp_path, [(100, 100), (100, 150), (140, 190)])
    rejected, chosen = figure.panels
    # bins of 5 from 100 to 195: 19 of them over the whole width
    bin_width = (WIDTH - LEFT - RIGHT) / 19
    first, second = rejected.bars
    assert (first.first, first.last, first.count) == (100, 104, 2)
    assert (second.first, second.count) == (140, 1)
    assert first.height == PANEL_HEIGHT and second.height == PANEL_HEIGHT / 2
    assert first.y + first.height == second.y + second.height == rejected.base
    assert second.x - first.x == pytest.approx(8 * bin_width, abs=0.02)
    assert [bar.height for bar in chosen.bars] == [PANEL_HEIGHT / 2] * 3  # one scale for both


def test_the_highest_bin_of_either_side_sets_the_scale_of_both(tmp_path):
    figure = figure_of(tmp_path, [(10, 30), (20, 30), (25, 30)])
    rejected, chosen = figure.panels
    assert figure.highest == 3
    assert [bar.height for bar in chosen.bars] == [PANEL_HEIGHT]
    assert [bar.height for bar in rejected.bars] == [round(PANEL_HEIGHT / 3, 2)] * 3


def test_the_median_line_stands_between_the_ends_at_its_share_of_the_axis(tmp_path):
    figure = figure_of(tmp_path, [(0, 0), (50, 75), (100, 99)])
    rejected, chosen = figure.panels
    assert (rejected.median, chosen.median) == (50, 75)
    width = WIDTH - LEFT - RIGHT  # the axis runs from 0 to 110, in bins of 10
    assert rejected.median_x == pytest.approx(LEFT + width * 50 / 110, abs=0.01)
    assert chosen.median_x == pytest.approx(LEFT + width * 75 / 110, abs=0.01)


@pytest.mark.parametrize("longest", [1, 7, 19, 20, 99, 1000, 19_999, 123_456])
def test_ticks_are_few_round_and_stay_inside_the_drawing(tmp_path, longest):
    figure = figure_of(tmp_path, [(0, longest)])
    assert 2 <= len(figure.ticks) <= MAX_TICKS
    assert figure.ticks[0].align == "start"
    for tick in figure.ticks:
        assert LEFT <= tick.x <= WIDTH - RIGHT
        assert (tick.align == "end") == (tick.x == WIDTH - RIGHT)


def test_a_run_without_pairs_has_no_figure(tmp_path):
    assert figure_of(tmp_path, []) is None
