"""The configs of one round: each command's own, with what changes from round to round."""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from clair_apo.advice.config import AdviseConfig
from clair_apo.clair import GenerateConfig
from clair_apo.config import Config, read_yaml
from clair_apo.errors import ConfigError
from clair_apo.evaluation import EvaluateConfig
from clair_apo.evaluation.config import AskedModel
from clair_apo.rounds.config import RoundsConfig
from clair_apo.training_process import Launch

T = TypeVar("T", bound=Config)

STORE = "requests.sqlite"


class RoundModels(NamedTuple):
    """The models of a round."""

    initial: str
    """Before the first round."""
    target: str
    """The one that answers, and that the training starts from."""


class RoundFolders(NamedTuple):
    """Where a round writes."""

    round: Path

    @property
    def pairs(self) -> Path:
        """The run folder of generate."""
        return self.round / "pairs"

    @property
    def advice(self) -> Path:
        """The folder of advise."""
        return self.round / "advice"

    @property
    def model(self) -> Path:
        """The `output_dir` of train."""
        return self.round / "model"

    @property
    def training_config(self) -> Path:
        """The config of train, as this round has it."""
        return self.round / "train.yaml"

    @property
    def evaluation(self) -> Path:
        """The folder of evaluate."""
        return self.round / "evaluation"


class RoundsPlan:
    """The configs of the commands, read once, and those of each round made of them.

    Args:
        config: names their files.

    Raises:
        ConfigError: a file that is no config of its command, or a setting that rounds cannot have.
    """

    def __init__(self, config: RoundsConfig) -> None:
        self.config = config
        folders = self.folders(1)
        self._training = read_yaml(config.train)
        self.generate_config = self._command(GenerateConfig, config.generate, folders.pairs)
        self.evaluate_config = self._command(EvaluateConfig, config.evaluate, folders.evaluation)
        self.advise_config = (
            self._command(AdviseConfig, config.advise, folders.advice) if config.advise else None
        )
        self._check_models()
        self._check_training()
        self._check_stop()

    def _command(self, kind: type[T], path: Path, run_dir: Path) -> T:
        """A command's config; the folder that a round gives it need not stand in the file."""
        options = ["--config", str(path), "--run_dir", str(run_dir)]
        return kind.from_command_line([*options, "--store", str(self.config.run_dir / STORE)])

    def _check_models(self) -> None:
        spec, where = self.generate_config.target, self.config.generate
        if spec.base_url is not None or spec.mode != "live":
            raise ConfigError(
                f"{where}: target.base_url and mode are for a model that stays as it is, and in "
                "rounds the target is trained: name a folder (it answers in this process)"
            )
        if self.generate_config.shard:
            raise ConfigError(f"{where}: shard: rounds take all prompts; leave it out")
        first = next(iter(self.evaluate_config.models.values()))
        if not isinstance(first, AskedModel) or first.base_url is not None:
            raise ConfigError(
                f"{self.config.evaluate}: the first of models says how the model of a round is "
                "asked, in this process: give it a folder, such as the first target"
            )

    def _check_training(self) -> None:
        where = self.config.train
        if self._training.get("datasets"):
            raise ConfigError(f"{where}: datasets: a round trains on its own pairs; leave it out")
        losses = self._training.get("loss_type")
        auto = "auto" in (losses if isinstance(losses, list) else [losses])
        if auto != (self.config.advise is not None):
            raise ConfigError(
                f"{where}: loss_type auto and advise belong together: the one takes the objective "
                "from what the other says of each round's pairs; set both or none"
            )

    def _check_stop(self) -> None:
        stop = self.config.stop
        suites = [suite.key for suite in self.evaluate_config.suites]
        if stop and stop.parsed.suite not in suites:
            raise ConfigError(
                f"stop.figure: {self.config.evaluate} has no suite {stop.parsed.suite!r}; "
                f"it has {', '.join(suites)}"
            )

    @property
    def launch(self) -> Launch:
        """In how many processes the training runs."""
        return Launch(self.config.num_processes, self.config.accelerate_config)

    def folders(self, number: int) -> RoundFolders:
        """Where a round writes; rounds count from 1."""
        return RoundFolders(self.config.run_dir / f"round-{number}")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides what a round does, for `rounds.json`."""
        known: dict[str, Any] = {
            "generate": self.generate_config.model_dump(mode="json"),
            "train": self._training,
            "evaluate": self.evaluate_config.model_dump(mode="json"),
            "reference": self.config.reference,
        }
        if self.advise_config:
            known["advise"] = self.advise_config.model_dump(mode="json")
        return known

    def generating(self, number: int, models: RoundModels) -> GenerateConfig:
        """The config of generate in a round."""
        target = self.generate_config.target.model_copy(update={"model": models.target})
        changes = {"run_dir": self.folders(number).pairs, "target": target}
        return self.generate_config.model_copy(update=changes)

    def advising(self, number: int, models: RoundModels) -> AdviseConfig | None:
        """The config of advise in a round; None where nothing is advised."""
        if self.advise_config is None:
            return None
        folders = self.folders(number)
        spec = self.advise_config.model or self.generate_config.target
        changes: dict[str, Any] = {
            "run_dir": folders.advice,
            "pairs": str(folders.pairs / "pairs.jsonl"),
            "model": spec.model_copy(update={"model": models.target}),
        }
        return self.advise_config.model_copy(update=changes)

    def training(self, number: int, models: RoundModels) -> dict[str, Any]:
        """The flat config of train in a round.

        Args:
            number: of the round.
            models: of the round.
        """
        folders = self.folders(number)
        changes: dict[str, Any] = {
            "dataset_name": str(folders.pairs / "dataset"),
            "model_name_or_path": models.target,
            "output_dir": str(folders.model),
            # `initial` is the trainer's word for the policy as it was when its training began
            "reference": models.initial if self.config.reference == "initial" else "initial",
        }
        if self.config.advise:
            changes["advice"] = str(folders.advice)
        return self._training | changes

    def evaluating(self, number: int, models: RoundModels) -> EvaluateConfig:
        """The config of evaluate in a round: its model, the one before it, and the first one."""
        asked = next(iter(self.evaluate_config.models.values()))
        named = {name_of(number): str(self.folders(number).model)}
        named[name_of(number - 1)] = models.target
        named[name_of(0)] = models.initial
        specs = {n: asked.model_copy(update={"model": model}) for n, model in named.items()}
        changes = {"run_dir": self.folders(number).evaluation, "models": specs}
        return self.evaluate_config.model_copy(update=changes)


def name_of(number: int) -> str:
    """How the model of a round is called in an evaluation; 0 is the one before the first."""
    return f"round_{number}" if number else "initial"
