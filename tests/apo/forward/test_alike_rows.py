"""Rows of like length: as much padding saved as more rows are worth."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from clair_apo.apo.forward.batching import alike_rows


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=8),
    st.integers(1, 900),
    st.integers(0, 300),
)
@settings(max_examples=80, deadline=None)
def test_they_cost_the_least_of_all_ways_to_cut(sizes, limit, row_cost):
    rows = alike_rows(sizes, limit, row_cost)
    assert sorted(place for row in rows for place in row) == list(range(len(sizes)))

    def cost(row):
        taken = len(row) * max(row)
        return taken + row_cost if taken <= limit or len(row) == 1 else float("inf")

    ordered = sorted(sizes)
    least = min(
        sum(cost(ordered[one:other]) for one, other in itertools.pairwise([0, *ends, len(sizes)]))
        for count in range(len(sizes))
        for ends in itertools.combinations(range(1, len(sizes)), count)
    )
    assert sum(cost([sizes[place] for place in row]) for row in rows) == least


def test_a_row_more_is_made_where_it_saves_more_padding_than_it_costs():
    sizes = [900, 100, 110, 890]
    assert [sorted(row) for row in alike_rows(sizes, 10_000)] == [[1, 2], [0, 3]]
    assert alike_rows(sizes, 10_000, row_cost=4096) == [range(4)]
    assert alike_rows(sizes, None, row_cost=0) == [range(4)], "None never cuts"
