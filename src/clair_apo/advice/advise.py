"""Says which anchor fits, from given judgements or by asking; writes `advise.json`."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from clair_apo.advice.ask import (
    JudgedPair,
    ask_all,
    judge_dialogue,
    judged_row,
    load_judged_pairs,
    sample_dialogue,
)
from clair_apo.advice.config import AdviseConfig
from clair_apo.advice.decide import Advice, Evidence, decide, in_percent
from clair_apo.advice.rows import JudgedSample, read_comparisons
from clair_apo.advice.saturation import Saturation, saturation_of
from clair_apo.console import say
from clair_apo.errors import ConfigError, DataError
from clair_apo.files import first_fault, write_jsonl
from clair_apo.llm import CachedChat, ChatModel, RequestStore, check_model
from clair_apo.llm.backends.vllm_server import ModelServers
from clair_apo.llm.judge import Judge, load_rubric
from clair_apo.run_folder import RunFolder, write_json

FILE = "advise.json"
ROWS = "comparisons.jsonl"


def advise(
    config: AdviseConfig, *, model: ChatModel | None = None, judge_model: ChatModel | None = None
) -> Advice:
    """Say which anchor fits, and write it to `advise.json` in `run_dir`.

    Where it asks, the comparisons are written to `comparisons.jsonl` beside it; what was asked is
    in the store, so that a run that was stopped goes on.

    Args:
        config: what is compared.
        model: asked in place of what `config.model` names.
        judge_model: asked in place of what `config.judge` names.

    Raises:
        ConfigError: the pairs do not say whose samples they are, and no model is named.
        DataError: unusable comparisons or pairs, or not one comparison with a verdict.
        RequestError: a model cannot be asked; what it answered before is kept.
        RunError: the folder cannot be written, or another process is at work in it.
    """
    folder = RunFolder(config.run_dir)
    if config.comparisons is not None:
        rows = read_comparisons(config.comparisons)
        source = {"comparisons": str(config.comparisons)}
        evidence = Evidence(saturation=saturation_of(config.beta), source=source)
        folder.prepare()
        return _write(folder, decide(rows, evidence))
    for spec, given in ((config.model, model), (config.judge, judge_model)):
        if spec is not None and given is None:
            check_model(spec)
    rubric = load_rubric(config.rubric)
    pairs = load_judged_pairs(str(config.pairs), config.max_pairs)
    if config.model is None:
        _require_own_samples(pairs, str(config.pairs))
    folder.prepare()
    path = config.store or config.run_dir.parent / "requests.sqlite"
    with RequestStore(path) as store, folder.locked(), ModelServers(folder.path) as servers:
        inquiry = _Inquiry(config, pairs, rubric, store, servers, model, judge_model)
        return _write(folder, inquiry.advice(folder))


def _write(folder: RunFolder, advice: Advice) -> Advice:
    write_json(folder.file(FILE), advice.model_dump(mode="json"))
    return advice


def _require_own_samples(pairs: Sequence[JudgedPair], name: str) -> None:
    models = {pair.rejected_by for pair in pairs}
    if len(models) > 1 or None in models:
        silent = sum(pair.rejected_by is None for pair in pairs)
        why = (
            f"{silent} of {len(pairs)} pairs do not say that the rejected answer is the model's own"
            if silent
            else f"the rejected answers are of {len(models)} models"
        )
        raise ConfigError(f"{name}: {why}; name the model that is to be trained: set model.model")


class _Inquiry:
    """What is asked for an advice, and what came of it."""

    def __init__(
        self,
        config: AdviseConfig,
        pairs: Sequence[JudgedPair],
        rubric: str,
        store: RequestStore,
        servers: ModelServers,
        model: ChatModel | None,
        judge_model: ChatModel | None,
    ) -> None:
        assert config.judge is not None
        self.config, self.pairs, self.store = config, pairs, store
        self.model = (
            CachedChat(config.model, store, model, offline=config.offline, servers=servers)
            if config.model
            else None
        )
        judge = CachedChat(
            config.judge, store, judge_model, offline=config.offline, servers=servers
        )
        self.judge = Judge(judge, rubric)

    def advice(self, folder: RunFolder) -> Advice:
        samples = self._samples()
        found = [(pair, sample) for pair, sample in zip(self.pairs, samples, strict=True) if sample]
        verdicts = ask_all(
            "judge",
            self.judge.chat,
            [
                judge_dialogue(self.judge, pair, sample, number < self.config.controls)
                for number, (pair, sample) in enumerate(found)
            ],
        )
        rows, rejected = list[JudgedSample](), list[JudgedSample]()
        for (pair, sample), said in zip(found, verdicts, strict=True):
            if row := judged_row(pair, pair.chosen, sample, said.chosen):
                rows.append(row)
            if said.rejected and (row := judged_row(pair, pair.rejected, sample, said.rejected)):
                rejected.append(row)
        if not rows:
            raise DataError(self._nothing(len(found)))
        write_jsonl(folder.file(ROWS), rows)
        evidence = Evidence(
            saturation=self._saturation(),
            rejected=tuple(rejected),
            controls=tuple(said.control.share == 1 for said in verdicts if said.control),
            unreadable=len(found) - len(rows),
            left_out=len(self.pairs) - len(found),
            source=self._source(),
        )
        return decide(rows, evidence)

    def _samples(self) -> list[str | None]:
        """The model's own answers, in the order of the pairs: what they reject, or new ones."""
        own = [self.model is None or pair.rejected_by == self.model.identity for pair in self.pairs]
        asked = [pair for pair, is_own in zip(self.pairs, own, strict=True) if not is_own]
        if is_all_own := not asked:
            say(f"the rejected answers of {len(self.pairs)} pairs are the model's own samples")
        answers = iter(
            ask_all("sample", self.model, [sample_dialogue(self.model, pair) for pair in asked])
            if self.model and not is_all_own
            else ()
        )
        return [
            pair.rejected if is_own else next(answers)
            for pair, is_own in zip(self.pairs, own, strict=True)
        ]

    def _saturation(self) -> Saturation:
        """What beta implies, for the pairs' chosen answers where the model is in this process."""
        model = self.model
        if model is None or not model.is_in_process or self.config.offline:
            return saturation_of(self.config.beta)
        from clair_apo.advice.deciding import chosen_logps

        found = chosen_logps(model.local_model, self.pairs)
        return saturation_of(
            self.config.beta, [one.whole for one in found], [one.deciding for one in found]
        )

    def _nothing(self, sampled: int) -> str:
        if not sampled:
            return (
                f"{self.config.pairs}: not one of {len(self.pairs)} samples of the model came to "
                "an end; raise model.max_tokens"
            )
        return (
            f"not one of {sampled} comparisons has a verdict of the judge in both orders; its "
            f"replies are in {self.store.path}: take a judge that keeps to the form that it is "
            "asked for, or raise judge.max_tokens"
        )

    def _source(self) -> dict[str, str]:
        assert self.config.judge is not None
        models = sorted({pair.rejected_by or "" for pair in self.pairs})
        return {
            "pairs": str(self.config.pairs),
            "model": self.config.model.model if self.config.model else ", ".join(models),
            "judge": self.config.judge.model,
            "rubric": self.judge.digest,
        }


def read_advice(path: Path) -> Advice:
    """Read an advice: `advise.json`, or the folder that it is in.

    Raises:
        ConfigError: there is none, or it is none.
    """
    path = path.expanduser()
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
    if advice.left_out:
        lines.append(f"  without a whole sample: {advice.left_out} pairs, left out")
    return "\n".join([*lines, f"  {advice.saturation.sentence}"])
