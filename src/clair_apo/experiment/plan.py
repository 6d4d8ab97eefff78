"""The configs of an experiment's commands: read once, and made for each data set and cell."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from clair_apo.advice.config import AdviseConfig
from clair_apo.clair import GenerateConfig
from clair_apo.config import Config, read_yaml
from clair_apo.errors import ConfigError
from clair_apo.evaluation import EvaluateConfig
from clair_apo.evaluation.config import EACH, AskedModel
from clair_apo.evaluation.figure_name import FigureName
from clair_apo.experiment.cells import Cell
from clair_apo.experiment.config import TUNED, ExperimentConfig
from clair_apo.training_process import Launch

T = TypeVar("T", bound=Config)
Step = Literal["development", "test"]
"""On which prompts a cell is evaluated."""

STORE = "requests.sqlite"
REFERENCE = "reference"
BASE = "base"
"""The model before any training, in evaluations and tables."""


class DataFolder(NamedTuple):
    """Where a data set is written."""

    path: Path

    @property
    def run(self) -> Path:
        """The run folder of generate."""
        return self.path / "run"

    @property
    def pairs(self) -> Path:
        """The pairs that every cell of the data set is trained on."""
        return self.path / "pairs.jsonl"

    @property
    def advice(self) -> Path:
        """The folder of advise."""
        return self.path / "advice"

    @property
    def reference_config(self) -> Path:
        """The config of `reference build`."""
        return self.path / "reference.yaml"


class CellFolder(NamedTuple):
    """Where a cell is written."""

    path: Path

    @property
    def training_config(self) -> Path:
        """The config of train."""
        return self.path / "train.yaml"

    @property
    def log(self) -> Path:
        """What train says."""
        return self.path / "train.log"

    @property
    def model(self) -> Path:
        """The `output_dir` of train."""
        return self.path / "model"

    @property
    def development(self) -> Path:
        """The evaluation on the development prompts."""
        return self.path / "development"

    @property
    def test(self) -> Path:
        """The evaluations on the test prompts."""
        return self.path / "test"


class ExperimentPlan:
    """The configs of the commands, checked before anything is asked or trained.

    Args:
        config: names their files.

    Raises:
        ConfigError: a file that is no config of its command, or a setting that an experiment
            cannot have.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config, self.folder = config, config.run_dir
        self.common_training: dict[str, Any] = read_yaml(config.train)
        """The flat config of train, as the file has it."""
        self.base = self._base_model()
        self._generate = {
            name: self._command(GenerateConfig, data.generate, self.data_folder(name).run)
            for name, data in config.data.items()
            if data.generate
        }
        self._tests = tuple(map(self._evaluation, config.evaluate))
        self._development = self._evaluation(config.development) if config.development else None
        self._advise = (
            self._command(AdviseConfig, config.advise, self.folder / "advice", pairs="pairs.jsonl")
            if config.advise
            else None
        )
        self._check()

    def _base_model(self) -> str:
        model = self.common_training.get("model_name_or_path")
        if not isinstance(model, str):
            raise ConfigError(f"{self.config.train}: model_name_or_path: name the model")
        folder = Path(model).expanduser()
        return str(folder.resolve()) if folder.is_dir() else model

    def _command(self, kind: type[T], path: Path, run_dir: Path, **given: str) -> T:
        """A command's config; what an experiment gives it need not stand in the file."""
        given |= {"config": str(path), "run_dir": str(run_dir), "store": str(self.folder / STORE)}
        return kind.from_command_line([part for key in given for part in (f"--{key}", given[key])])

    def _evaluation(self, path: Path) -> EvaluateConfig:
        found = self._command(EvaluateConfig, path, self.folder / "evaluation")
        if not isinstance(_asked(found), AskedModel) or _asked(found).base_url is not None:
            raise ConfigError(
                f"{path}: the first of models says how the model of a cell is asked, in this "
                "process: give it a folder, such as the model that is trained"
            )
        return found

    def _check(self) -> None:
        config = self.config
        for name, one in self._generate.items():
            if one.shard:
                raise ConfigError(f"{config.data[name].generate}: shard: leave it out")
        if self.common_training.get("datasets"):
            raise ConfigError(f"{config.train}: datasets: a cell has one data set; leave it out")
        self._check_tests()
        if self._development and EACH in self._development.models:
            raise ConfigError(
                f"{config.development}: values are chosen by the trained model alone; give models "
                f"a name in place of {EACH}"
            )
        if config.choose and self._development and config.development:
            suites = {suite.key: config.development for suite in self._development.suites}
            _check_figure(config.choose.parsed, suites)

    def _check_tests(self) -> None:
        """See that every figure is of one evaluation, and that all look at the same models."""
        suites: dict[str, Path] = {}
        for path, test in zip(self.config.evaluate, self._tests, strict=True):
            for suite in test.suites:
                if suite.key in suites:
                    raise ConfigError(
                        f"{path}: has a suite {suite.key!r}, as {suites[suite.key]} has; give one "
                        "of them a name"
                    )
                suites[suite.key] = path
        for text in self.config.figures:
            _check_figure(FigureName.parse(text), suites)
        if len({EACH in test.models for test in self._tests}) > 1:
            raise ConfigError("evaluate: every checkpoint in all of them (each), or in none")
        stems = [path.stem for path in self.config.evaluate]
        if len(set(stems)) < len(stems):
            raise ConfigError("evaluate: two files have one name; folders are named after them")

    @property
    def store(self) -> Path:
        """The request store of all."""
        return self.folder / STORE

    @property
    def launch(self) -> Launch:
        """In how many processes a cell is trained."""
        return Launch(self.config.num_processes, self.config.accelerate_config)

    @property
    def over_checkpoints(self) -> bool:
        """Whether every checkpoint of a cell is evaluated."""
        return EACH in self._tests[0].models

    @property
    def drops_checkpoints(self) -> bool:
        """Whether an evaluation deletes the checkpoints that it has asked, all but the last."""
        return any(test.drop_checkpoints for test in self._tests)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides what a cell is, for `experiment.json`; seeds and objectives may be added."""
        return {
            "data": {
                name: self._generate[name].model_dump(mode="json")
                if name in self._generate
                else {"pairs": data.pairs}
                for name, data in self.config.data.items()
            },
            "same_prompts": self.config.same_prompts,
            "train": self.common_training,
            "development": self._development and self._development.model_dump(mode="json"),
            "evaluate": [test.model_dump(mode="json") for test in self._tests],
            "choose": self.config.choose and self.config.choose.model_dump(mode="json"),
        }

    def data_folder(self, name: str) -> DataFolder:
        """Where a data set is written."""
        return DataFolder(self.folder / "data" / name)

    def cell_folder(self, cell: Cell) -> CellFolder:
        """Where a cell is written."""
        return CellFolder(self.folder / "cells" / cell.name)

    def outcome_file(self, cell: Cell, step: Step) -> Path:
        """Where it stands how a cell's training and evaluation ended."""
        return self.cell_folder(cell).path / f"{step}.json"

    def generating(self, name: str) -> GenerateConfig | None:
        """The config of generate for a data set; None where its pairs are given."""
        return self._generate.get(name)

    def advising(self, name: str) -> AdviseConfig | None:
        """The config of advise for a data set; None where nothing is advised."""
        if self._advise is None:
            return None
        changes: dict[str, Any] = {
            "run_dir": self.data_folder(name).advice,
            "pairs": str(self.data_folder(name).pairs),
        }
        if self._advise.model:
            changes["model"] = self._advise.model.model_copy(update={"model": self.base})
        return self._advise.model_copy(update=changes)

    def training(self, cell: Cell) -> dict[str, Any]:
        """The flat config of train for a cell."""
        objective = self.config.objectives[cell.objective]
        own = {key: value for key, value in objective.items() if key not in TUNED}
        return {
            **self.common_training,
            **own,
            **dict(cell.values),
            "seed": cell.seed,
            "model_name_or_path": self.base,
            "dataset_name": str(self.data_folder(cell.data).pairs),
            "output_dir": str(self.cell_folder(cell).model),
            "reference_cache": str(self.folder / REFERENCE),
        }

    def referring(self, cell: Cell) -> dict[str, Any]:
        """The flat config of `reference build` for the data set of a cell."""
        return self.training(cell) | {
            "output_dir": str(self.data_folder(cell.data).path / "unused")
        }

    def developing(self, cell: Cell) -> EvaluateConfig:
        """The config of evaluate on the development prompts."""
        assert self._development is not None
        return self._evaluating(self._development, cell, self.cell_folder(cell).development)

    def testing(self, cell: Cell) -> tuple[EvaluateConfig, ...]:
        """The configs of evaluate on the test prompts."""
        folder = self.cell_folder(cell).test
        return tuple(
            self._evaluating(test, cell, folder / path.stem)
            for path, test in zip(self.config.evaluate, self._tests, strict=True)
        )

    def _evaluating(self, config: EvaluateConfig, cell: Cell, run_dir: Path) -> EvaluateConfig:
        """The cell's model, or its checkpoints, beside the model before the training."""
        asked, model = _asked(config), self.cell_folder(cell).model
        if EACH in config.models:
            name, path = EACH, f"{model}/checkpoint-*"
        else:
            name, path = cell.name, str(model)
        models = {
            name: asked.model_copy(update={"model": path}),
            BASE: asked.model_copy(update={"model": self.base}),
        }
        return config.model_copy(update={"run_dir": run_dir, "models": models})


def _asked(config: EvaluateConfig) -> AskedModel:
    """How the model of a cell is asked."""
    found = config.models.get(EACH, next(iter(config.models.values())))
    return found  # type: ignore[return-value] # `_evaluation` refuses any other


def _check_figure(figure: FigureName, suites: Mapping[str, Path]) -> None:
    if figure.suite not in suites:
        files = ", ".join(dict.fromkeys(map(str, suites.values())))
        raise ConfigError(
            f"{figure.name}: there is no suite {figure.suite!r} in {files}; "
            f"there is {', '.join(suites)}"
        )
