"""A process that logs alone, as the first one does with figures of a user's own, waits for none."""

import pytest

from tests.helpers.launching import ROOT, finished, launch

pytestmark = pytest.mark.real


def test_one_of_two_processes_can_log_alone(tmp_path):
    script = str(ROOT / "tests/helpers/log_on_one.py")
    done = finished(launch(ROOT / "configs/accelerate/cpu.yaml", [script, str(tmp_path)]))
    assert done.returncode == 0, done.stderr[-2000:]
    # the first log takes the metrics that there are, as TRL's does; the second finds none
    expected = [["my/figure", "rewards/chosen"], ["my/second"], ["loss", "rewards/chosen"], []]
    assert f"logged: {expected}" in done.stdout
