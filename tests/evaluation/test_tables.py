"""The tables of an evaluation: columns where they fit, lines where they do not."""

from rich.console import Console

from clair_apo.evaluation.tables import evaluation_table

ENTRY = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 40, "clusters": 40}
MODELS = ("trained", "base", "another", "a_fourth")


def printed(models, width):
    numbers = {name: {"ended": ENTRY, "copied": ENTRY} for name in models}
    differences = {f"{models[0]} - {other}": {"ended": ENTRY} for other in models[1:]}
    suite = numbers | {"differences": differences, "remarks": ["Said."], "counts": {}}
    console = Console(width=width, soft_wrap=True)
    with console.capture() as found:
        console.print(evaluation_table({"suites": {"health": suite}}))
    return found.get().splitlines()


def test_models_stand_side_by_side_where_they_fit():
    lines = printed(MODELS, 300)
    (row,) = (line for line in lines if line.startswith("ended"))
    assert row.replace("+", "").count("0.50 [0.25, 0.75]") == 7


def test_each_model_has_a_line_where_the_columns_do_not_fit():
    lines = printed(MODELS, 80)
    assert max(map(len, lines)) <= 80
    start = next(n for n, line in enumerate(lines) if line.startswith("ended"))
    rows = [line.replace("+", "") for line in lines[start : start + 7]]
    assert [" - " in line for line in rows] == [False] * 4 + [True] * 3
    assert all("0.50 [0.25, 0.75]" in line for line in rows)
