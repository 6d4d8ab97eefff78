"""`clair-apo train --dry_run`: what a training run would do, before anything is spent on it.

Reads the pairs, tokenizes them as the trainer does, and takes the model's shapes from its config.
One row goes through a model of that shape. It loads no weights and writes no file.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import datasets
import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl.trainer.utils import get_peft_config

from clair_apo.apo.adapters import adapter_folder
from clair_apo.apo.arguments import TrainingSetup
from clair_apo.apo.checks import check_parallelism, check_tokens, left_out
from clair_apo.apo.data import PairSplit
from clair_apo.apo.dry_run.estimate import TrainingEstimate, estimate
from clair_apo.apo.dry_run.rows import EpochRows, MeasuredRow, RowPlan
from clair_apo.apo.forward.layout_choice import LayoutChoice, choose_layout, reads_whole_batches
from clair_apo.apo.forward.operations import matrix_rate
from clair_apo.apo.forward.row_size import row_tokens
from clair_apo.apo.lengths import PairLengths, cut_pair, pair_lengths
from clair_apo.apo.trl_compat import tokenized_pairs
from clair_apo.apo.watch.prompts import DEFAULT
from clair_apo.errors import ClairApoError, ConfigError, TrainingError
from clair_apo.ingest.pairs import TrainingPair
from clair_apo.models import find_model
from clair_apo.records import Record


class PairProblem(Record):
    """What is wrong with one pair."""

    id: str
    stops: bool
    """Whether training would refuse to start with it."""
    what: str


class DryRun(Record):
    """The result of a dry run: counts, problems, lengths, layout and estimate."""

    pairs: int
    """Pairs in the data."""
    held_out: int
    beyond_max_pairs: int
    trained: int
    problems: tuple[PairProblem, ...]
    lengths: PairLengths | None
    """Of the pairs trained on that can be; None where none can."""
    layout: str
    """`shared_prefix`; `padded`, or `sequences` that may be padded, with the reason."""
    estimate: TrainingEstimate | None
    rows: RowPlan | None
    measured: MeasuredRow | None
    """One of the rows; None, as with `rows`, where no pair can be trained on."""
    watched: int = 0
    """Held-out prompts, at most, that the policy would answer while it trains."""


class _Tokenized(NamedTuple):
    rows: list[Mapping[str, Any]]
    problems: list[PairProblem]


def preview(setup: TrainingSetup) -> DryRun:
    """Check the pairs of a run and estimate it, without loading weights.

    Raises:
        ClairApoError: no pairs, no tokenizer, a model whose config cannot be read, or a
            `pair_layout` that training would refuse.
    """
    split = setup.script.load_split()
    location = find_model(str(setup.model.model_name_or_path)).location
    adapter = adapter_folder(location)
    tokenizer = _loaded(AutoTokenizer, adapter.tokenizer if adapter else location, setup)
    found = tokenized(split, tokenizer, setup.args)
    model = _made(location, setup, torch.device("meta"))
    check_parallelism(setup.args.parallelism_config)
    choice = choose_layout(setup.args, model)
    padded = choice.layout != "shared_prefix"  # sequences are padded where layers leak
    lengths = _lengths(found.rows, setup) if found.rows else None
    wanted = setup.args.watch_prompts
    dtype = torch.bfloat16 if setup.args.bf16 else torch.float32
    rate = matrix_rate(setup.args.device, dtype)
    whole = padded and reads_whole_batches(setup.args, model)
    limit = None if whole else row_tokens(model, setup.args, setup.args.device)
    expected = lengths and estimate(
        model, lengths, setup.args, padded=padded, rate=rate, limit=limit
    )
    rows = EpochRows(found.rows, setup.args, limit, padded) if found.rows else None
    return DryRun(
        pairs=len(split.train) + len(split.held_out) + split.left,
        held_out=len(split.held_out),
        beyond_max_pairs=split.left,
        trained=len(split.train),
        problems=tuple(found.problems),
        lengths=lengths,
        layout=_layout(choice),
        estimate=expected,
        rows=rows and rows.plan(),
        measured=rows
        and expected
        and rows.measure(lambda device: _made(location, setup, device), expected.seconds_of_row),
        watched=min(len(split.held_out), DEFAULT if wanted is None else wanted),
    )


def _layout(choice: LayoutChoice) -> str:
    if choice.layout == "sequences":
        return (
            f"sequences without padding where kernels keep them apart, which training tries first, "
            f"else padded, as counted here ({choice.shares_nothing})"
        )
    return (
        f"padded ({choice.reason or 'asked for'})" if choice.layout == "padded" else choice.layout
    )


def tokenized(split: PairSplit, tokenizer: Any, args: Any) -> _Tokenized:
    """Tokenize pairs as the trainer would; those it would refuse are problems instead.

    Args:
        split: the pairs; those held out are looked at too, only those trained on returned.
        tokenizer: with the chat template.
        args: an `APOConfig`.
    """
    problems = []
    good: dict[str, list[Mapping[str, Any]]] = {"train": [], "eval": []}
    for name, part in (("train", split.train), ("eval", split.held_out)):
        renderable = []
        for pair in part:
            fault = _template_fault(pair, tokenizer)
            if fault is None:
                renderable.append(pair)
            else:
                problems.append(PairProblem(id=pair.id, stops=True, what=fault))
        for row in _tokenize(renderable, tokenizer, args, name):
            found = list(_problems(row, tokenizer, args))
            problems += found
            if not any(problem.stops for problem in found):
                good[name].append(row)
    return _Tokenized(good["train"], problems)


def _template_fault(pair: TrainingPair, tokenizer: Any) -> str | None:
    """What the chat template raises for a pair; templates raise errors of many kinds."""
    row = pair.to_trl_row()
    if isinstance(row["prompt"], str):
        return None
    if tokenizer.chat_template is None:
        raise ConfigError("the tokenizer has no chat_template, which messages need")
    try:
        tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for side in ("chosen", "rejected"):
            tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)
    except Exception as error:
        return f"the chat template refuses it: {' '.join(str(error).split())[:200]}"
    return None


def _tokenize(
    pairs: Sequence[TrainingPair], tokenizer: Any, args: Any, name: str
) -> Sequence[Mapping[str, Any]]:
    if not pairs:
        return []
    data = datasets.Dataset.from_list([pair.to_trl_row() for pair in pairs])
    rows: list[Mapping[str, Any]] = tokenized_pairs(
        data, tokenizer, name, args.dataset_num_proc
    ).to_list()
    return rows


def _problems(row: Mapping[str, Any], tokenizer: Any, args: Any) -> list[PairProblem]:
    where = f"pair {row['id']}"
    try:
        check_tokens(row, where, left_out=left_out(tokenizer, row), args=args)
    except TrainingError as error:
        return [PairProblem(id=row["id"], stops=True, what=str(error).removeprefix(f"{where}: "))]
    return [PairProblem(id=row["id"], stops=False, what=w) for w in _doubts(row, tokenizer, args)]


def _doubts(row: Mapping[str, Any], tokenizer: Any, args: Any) -> list[str]:
    """What training accepts though it is probably a mistake."""
    found = []
    pair = cut_pair(row, args.max_length, args.truncation_mode)
    if row["chosen_ids"] == row["rejected_ids"]:
        found.append("both answers are the same tokens: there is nothing to prefer")
    elif pair.chosen == pair.rejected:
        found.append(f"the answers differ only beyond max_length {args.max_length}")
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    for side in ("chosen", "rejected"):
        # templates close a turn with a special token and at most a newline
        if not special & set(row[f"{side}_ids"][-3:]):
            found.append(f"{side!r} has no end token: the model would not learn where to stop")
    bos = tokenizer.bos_token_id
    if bos is not None and row["prompt_ids"][:2] == [bos, bos]:
        found.append("the prompt begins with two begin tokens: the template adds one of its own")
    unknown = tokenizer.unk_token_id
    whole = [*row["prompt_ids"], *row["chosen_ids"], *row["rejected_ids"]]
    if unknown is not None and unknown in whole:
        found.append(f"{whole.count(unknown)} tokens are unknown to the tokenizer")
    return found


def _lengths(rows: Sequence[Mapping[str, Any]], setup: TrainingSetup) -> PairLengths:
    mode: Any = setup.args.truncation_mode
    return pair_lengths(rows, setup.args.max_length, mode)


def _made(location: str, setup: TrainingSetup, device: torch.device) -> PreTrainedModel:
    """A model of the run's shape, its weights random, adapted where the run trains an adapter."""
    adapter = get_peft_config(setup.model)
    trained = adapter_folder(location)
    if trained is not None:
        adapter, location = PeftConfig.from_pretrained(location), trained.model
        adapter.inference_mode = False
    config = _loaded(AutoConfig, location, setup)
    named = setup.model.dtype or "float32"
    dtype = getattr(torch, named) if named != "auto" else config.dtype
    with torch.random.fork_rng(devices=[]), device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model = get_peft_model(model, adapter) if adapter else model
    return cast(PreTrainedModel, model)


def _loaded(kind: Any, location: str, setup: TrainingSetup) -> Any:
    try:
        return kind.from_pretrained(
            location,
            revision=setup.model.model_revision,
            trust_remote_code=setup.args.trust_remote_code,
        )
    except ClairApoError:
        raise
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:400]
        raise TrainingError(f"{setup.model.model_name_or_path}: {reason}") from None
