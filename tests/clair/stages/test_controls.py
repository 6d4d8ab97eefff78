"""A judge that verifies is told from one that says yes to everything, at the default settings."""

import pytest

from clair_apo.cli import _print_report
from clair_apo.llm import ModelSpec
from clair_apo.report import write_report
from clair_apo.verification import VerificationSummary
from tests.helpers.clair_runs import Replying, edit_reply, make_config, run, write_rows

YES, NO = "<verdict>yes</verdict>", "<verdict>no</verdict>"
LOOKING = [("<answer_1>\nnew", YES), ("", NO)]
SAYING_YES = [("", YES)]
PROMPTS = 80


def verified(folder, judge, **changes):
    rows = [{"prompt": f"Question {n}?"} for n in range(PROMPTS)]
    data = write_rows(folder / "data.jsonl", rows)
    spec = ModelSpec(model="judge")
    config = make_config(folder, data, judge=spec, verify=True, **changes)
    reviser = Replying([("", edit_reply(("old", "new")))])
    return run(config, Replying([("", "old answer")]), reviser, Replying(judge))


def told(folder, capsys):
    """What terminal, page and card say, with their line ends and escapes taken out."""
    _print_report(folder / "run")
    report = write_report(folder / "run")
    texts = [
        capsys.readouterr().out,
        report.page.read_text("utf-8"),
        report.card.read_text("utf-8"),
    ]
    return [" ".join(text.replace("\\", "").split()) for text in texts]


def test_a_judge_that_says_yes_to_everything_is_warned_of_wherever_its_pairs_are(tmp_path, capsys):
    done = verified(tmp_path, SAYING_YES)
    # it loses the controls alone: the share of a tenth says how many there are
    controls = done.dropped["judge_rejected"]
    assert 4 <= controls <= 16 and done.pairs == PROMPTS - controls
    assert "cannot be trusted" in " ".join(capsys.readouterr().err.split())
    for text in told(tmp_path, capsys):
        assert f"confirmed {PROMPTS} of {PROMPTS} claims" in text
        assert f"rejected 0 of {controls} swapped-order controls: 0.0% [0.0%, " in text
        assert "the judge's confirmation cannot be trusted" in text.replace("&#39;", "'")


def test_a_judge_that_looks_is_not_warned_of(tmp_path, capsys):
    done = verified(tmp_path, LOOKING)
    assert done.pairs == PROMPTS
    assert "cannot be trusted" not in capsys.readouterr().err
    for text in told(tmp_path, capsys):
        assert f"confirmed {PROMPTS} of {PROMPTS} claims" in text
        assert "(n=" in text and "100.0% [" in text
        assert "cannot be trusted" not in text


def test_without_controls_the_report_says_that_nobody_knows(tmp_path, capsys):
    verified(tmp_path, SAYING_YES, controls={"share": 0.0})
    for text in told(tmp_path, capsys):
        assert "there were no swapped-order controls" in text
        assert "without controls nobody knows whether it reads the answers" in text


def wilson_low(count, n, z=1.959964):
    share = count / n
    middle = share + z * z / (2 * n)
    half = z * ((share * (1 - share) + z * z / (4 * n)) / n) ** 0.5
    return (middle - half) / (1 + z * z / n)


@pytest.mark.parametrize("n", [1, 3, 4, 10, 60])
def test_a_judge_is_trusted_where_the_whole_interval_lies_above_one_half(n):
    for count in range(n + 1):
        found = VerificationSummary(claims=n, confirmed=n, controls=n, controls_rejected=count)
        assert found.trusted == (wilson_low(count, n) > 0.5)
        assert bool(found.warning) != found.trusted
        if found.warning:
            few = "too few controls" in found.warning
            assert few == (count / n > 0.5)
