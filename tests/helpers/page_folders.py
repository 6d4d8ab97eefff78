"""Folders of a whole run, of rounds and of an experiment, for the tests of their pages."""

import json
import shutil
from pathlib import Path

from clair_apo.evaluation import evaluate
from clair_apo.experiment.choose import Candidate, Choice
from clair_apo.experiment.compare import Comparison, Estimate
from clair_apo.experiment.data import MadeData
from clair_apo.experiment.record import AnchorVerdict, CellState, ExperimentRecord, write_record
from clair_apo.rounds.record import Gain, Round, RoundsRecord
from clair_apo.rounds.record import write_record as write_rounds_record
from clair_apo.run_folder import RunFolder
from clair_apo.stats import mean_interval
from tests.helpers.evaluations import Ruled, evaluation_config
from tests.helpers.report_runs import make_dropped, make_pair, make_run
from tests.helpers.training_logs import HISTORY

EVIL = "<script>alert(1)</script> & so on."
VALUES = {"clair": (0.7, 0.8, 0.9), "judged": (0.4, 0.5, 0.7)}
FIGURES = ("checks.share", "-neutral.kl_k1")


def make_training(folder: Path, **facts: object) -> None:
    """The folder of a training, with logs and facts."""
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    RunFolder(folder).record_stage("train", {"steps": 6, "beta": 0.1, **facts})


def make_whole_run(folder: Path) -> Path:
    """A run folder with pairs, a training and an evaluation in it."""
    run = folder / "run"
    pairs = [make_pair("Mend a sock", id="a"), make_pair("Sow beans", id="b", chosen=EVIL)]
    make_run(run, pairs, [make_dropped("c", detail=EVIL)])
    alarm = {"name": "chosen_falls", "step": 3, "what": "the chosen falls", "advice": "Look."}
    make_training(run / "checkpoint", alarms=[alarm])
    watched = {"id": "a", "prompt": "Mend a sock", "chosen": "Sew.", "ended": True, "tokens": 2}
    watched |= {"rep_3": 0.0, "checks": {"short": False}}
    rows = [watched | {"step": step, "answer": f"Sew {step} times."} for step in (0, 6)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "checkpoint" / "watched_answers.jsonl").write_text(text)
    evaluate(
        evaluation_config(folder), chats={"trained": Ruled([EVIL]), "base": Ruled(["No...", None])}
    )
    return run


def make_rounds(folder: Path, run: Path) -> Path:
    """The folder of two rounds, each made of the parts of a whole run."""
    path, done = folder / "rounds", []
    for number in (1, 2):
        place = path / f"round-{number}"
        shutil.copytree(run, place / "pairs")
        for old, new in (("checkpoint", "model"), ("evaluation", "evaluation")):
            (place / "pairs" / old).rename(place / new)
        share = {"mean": number / 4, "low": 0.1, "high": 0.6, "n": 2}
        gain = Gain(figure="checks.share", difference=mean_interval([0.2, 0.3]), gained=True)
        done.append(
            Round(
                number=number,
                target=EVIL,
                model=str(place / "model"),
                prompts=2,
                pairs=2,
                asked=4,
                loss_type="apo_zero",
                advice="zero",
                steps=6,
                figures={"checks": {"share": share}},
                gain=gain,
                ended="2026-12-01",
            )
        )
    stopped = f"2 rounds were asked for; {EVIL}"
    record = RoundsRecord(initial="base", settings={}, rounds=tuple(done), stopped=stopped)
    write_rounds_record(path, record)
    return path


def make_experiment(folder: Path) -> Path:
    """An experiment of two data sets and two objectives; one cell failed."""
    path = folder / "experiment"
    cells = [_cell(data, objective) for data in VALUES for objective in ("dpo", "zero")]
    cells.append(cells[0].model_copy(update={"name": "x", "state": "failed", "why": EVIL}))
    rule = "the highest mean of checks.share on the development prompts"
    tried = [Candidate(values={"beta": b}, figure=mean_interval([b, 0.5])) for b in (0.02, 0.1)]
    choice = Choice(
        data="clair", objective="zero", rule=rule, candidates=tuple(tried), chosen={"beta": 0.1}
    )
    made = MadeData(
        pairs=2,
        prompts=2,
        made=3,
        digest="0" * 64,
        jaccard=mean_interval([0.5, 0.9]),
        levenshtein_share=mean_interval([0.1, 0.3]),
        advice="zero",
        reason="the chosen answers are better",
    )
    record = ExperimentRecord(
        settings={},
        base="smollm2-135m",
        data=dict.fromkeys(VALUES, made),
        choices=(choice,),
        cells=tuple(cells),
        figures=FIGURES,
        baseline="clair/dpo",
        comparisons=tuple(_comparison(cell, figure) for figure in FIGURES for cell in cells[:4]),
        anchors=(
            AnchorVerdict(
                data="clair",
                advice="zero",
                reason="",
                figure="checks.share",
                zero_minus_down=None,
                verdict="not shown",
            ),
        ),
    )
    write_record(path, record)
    for data in VALUES:
        (path / "data" / data).mkdir(parents=True)
        pair = {"prompt": "Sow beans", "chosen": EVIL, "rejected": "Sow them deep."}
        (path / "data" / data / "pairs.jsonl").write_text(f"{json.dumps(pair)}\n" * 5)
    for cell in cells[:4]:
        make_training(path / "cells" / cell.name / "model")
        _evaluate(path / "cells" / cell.name, cell.name)
    return path


def _cell(data: str, objective: str) -> CellState:
    return CellState(
        name=f"{data}.{objective}.beta0.1.seed0",
        data=data,
        objective=objective,
        values={"beta": 0.1},
        seed=0,
        state="done",
        steps=6,
        tokens=1234,
        alarms=("chosen_falls",),
        reference_computed=0,
    )


def _comparison(cell: CellState, figure: str) -> Comparison:
    own = mean_interval(VALUES[cell.data])
    difference = mean_interval([value - 0.4 for value in VALUES[cell.data]])
    return Comparison(
        data=cell.data,
        objective=cell.objective,
        view="last",
        figure=figure.removeprefix("-"),
        estimate=Estimate(over_prompts=own, over_seeds=mean_interval([own.mean])),
        to_base=Estimate(over_prompts=difference, over_seeds=mean_interval([difference.mean])),
        to_baseline=Estimate(over_prompts=difference, over_seeds=mean_interval([0.1])),
        corrected=mean_interval([0.3, 0.31, 0.32]),
    )


def _evaluate(folder: Path, cell: str) -> None:
    config = evaluation_config(folder)
    asked = dict(zip((cell, "base"), config.models.values(), strict=True))
    config = config.model_copy(update={"run_dir": folder / "test" / "unseen", "models": asked})
    chats = {"trained": Ruled([EVIL, f"{cell} says so."]), "base": Ruled(["No..."])}
    evaluate(config, chats=chats)
