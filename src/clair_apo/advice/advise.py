"""Says which anchor fits, from given judgements or by asking; writes `advise.json`."""

from pathlib import Path

from pydantic import ValidationError

from clair_apo.advice.config import AdviseConfig
from clair_apo.advice.decide import Advice, Evidence, decide
from clair_apo.advice.rows import read_comparisons
from clair_apo.advice.saturation import saturation_of
from clair_apo.errors import ConfigError
from clair_apo.files import first_fault
from clair_apo.run_folder import RunFolder, write_json

FILE = "advise.json"


def advise(config: AdviseConfig) -> Advice:
    """Say which anchor fits, and write it to `advise.json` in `run_dir`.

    Raises:
        DataError: unusable comparisons or pairs.
        RunError: the folder cannot be written.
    """
    assert config.comparisons is not None
    rows = read_comparisons(config.comparisons)
    evidence = Evidence(
        saturation=saturation_of(config.beta), source={"comparisons": str(config.comparisons)}
    )
    advice = decide(rows, evidence)
    folder = RunFolder(config.run_dir)
    folder.prepare()
    write_json(folder.file(FILE), advice.model_dump(mode="json"))
    return advice


def read_advice(path: Path) -> Advice:
    """Read an advice: `advise.json`, or the folder that it is in.

    Raises:
        ConfigError: there is none, or it is none.
    """
    file = path / FILE if path.is_dir() else path
    try:
        return Advice.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}); make it with clair-apo advise"
        ) from None
    except ValidationError as error:
        raise ConfigError(
            f"{file}: is no advice ({first_fault(error)}); make it with clair-apo advise"
        ) from None


def advice_text(advice: Advice) -> str:
    """The advice in a few lines, for the terminal."""
    from clair_apo.advice.decide import in_percent

    lines = [f"advice: {advice.advice}", f"  {advice.reason}"]
    shares = {
        "both orders agree": advice.consistent,
        "first place wins": advice.first_place,
        "the longer answer wins": advice.longer_share,
        "chosen wins at like length": advice.like_length_share,
        "rejected wins against the model's own": advice.rejected_share,
        "controls passed": advice.controls,
    }
    lines += [f"  {name}: {in_percent(share)}" for name, share in shares.items() if share]
    if advice.unreadable:
        lines.append(f"  without a verdict: {advice.unreadable} comparisons, left out")
    return "\n".join([*lines, f"  {advice.saturation.sentence}"])
