"""Every field of the generation config does what it says: one row each, with the value seen.

A row sets one field of a small run to another value, and says what is to be seen with the plain and
with the changed value. A field whose effect takes a tokenizer, a clock or a model in this process
has its test where that is at hand: see `ELSEWHERE`.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from clair_apo.clair import GenerateConfig, generate
from clair_apo.clair.stages.context import ControlsConfig
from clair_apo.config import dotted_keys
from clair_apo.errors import ClairApoError
from clair_apo.llm import ChatRequest
from clair_apo.records import prompt_id
from clair_apo.run_folder import Shard, is_held_out
from tests.helpers import ROOT
from tests.helpers.chat_server import ChatServer, Reply
from tests.helpers.clair_runs import Replying, edit_reply, rows_of, user, write_rows
from tests.helpers.scripted_roles import SERVER, Role

OLD, NEW = "the old answer", "the new answer"
QUESTIONS = 6
GIVEN = 2
"""The question to which the data brings the answer."""
KEPT = (0, 1, 2)
"""The questions that become pairs: of the others one reply has no form, one declines, and one
speaks of being a revision."""


def ids(numbers=range(QUESTIONS)):
    return [prompt_id(user(f"Question {n}?")) for n in numbers]


class Judge(Role):
    """Prefers what is new, and the later sample."""

    def text(self, request):
        first, second = request.messages[0].content.split("<answer_2>")
        if "claims" in first:
            return f"<verdict>{'yes' if NEW in first else 'no'}</verdict>"
        return f"<verdict>{2 if 'again' in second else 1}</verdict>"


class Target(Role):
    """Thinks before it answers; a later sample has a word more."""

    def text(self, request):
        return f"<think>\nhm\n</think>\n{OLD}" + " again" * request.sample


def reviser():
    both = edit_reply(("old", "new")) + f"<revision>{NEW}</revision>"
    return Replying(
        [
            ("Question 3?", "no form at all"),
            ("Question 4?", edit_reply((OLD, "I'm sorry, but I can't help with that."))),
            ("Question 5?", edit_reply((OLD, "Here is the revised answer."))),
            ("", both),
        ]
    )


@dataclass
class Run:
    """What a run leaves and asks."""

    root: Path
    error: str
    target: list[ChatRequest]
    reviser: list[ChatRequest]
    judge: list[ChatRequest]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return rows_of(self.root, name)

    def side(self, side: str, number: int = 0) -> str:
        return self.rows("pairs.jsonl")[number][side][0]["content"]

    def dropped(self, reason: str) -> int:
        return sum(row["reason"] == reason for row in self.rows("dropped.jsonl"))

    @property
    def first_prompt(self) -> str:
        return self.rows("prompts.jsonl")[0]["messages"][0]["content"]

    @property
    def asked_reviser(self) -> str:
        return self.reviser[0].messages[0].content


@dataclass
class Effect:
    """A field, another value for it, and what is seen with its plain and its other value."""

    key: str
    value: Any
    of: Callable[[Run], Any]
    plain: Any
    changed: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    """Other fields, the same in both runs."""
    error: str = ""
    """How the run with the changed value ends, where it does not end well."""


def drawn(seed):
    order = list(range(QUESTIONS))
    random.Random(seed).shuffle(order)
    return sorted(order[:2])


def numbers(run):
    return [int(row["source"].rsplit(":")[-1]) - 1 for row in run.rows("prompts.jsonl")]


def controls(seed):
    return [ControlsConfig(share=0.5, seed=seed).holds(pair) for pair in ids(KEPT)]


def held_out(share):
    return sum(is_held_out(pair, share) for pair in ids(KEPT))


def in_test_split(run):
    path = run.root / "run" / "dataset" / "test.jsonl"
    return len(path.read_text("utf-8").splitlines()) if path.exists() else 0


def exists(name):
    return lambda run: (run.root / name).exists()


def dropped(reason):
    return lambda run: run.dropped(reason)


VERIFIED = {"verify": True, "controls.share": 0.0}
PRICED = {f"{role}.price": {"input": 1, "output": 1} for role in ("target", "reviser")}
LONG = {"prompts.path": "long.jsonl", "prompts.contamination": ("passages.jsonl",)}

NO_PAIR = "not one of 6 prompts became a pair"

EFFECTS = [
    Effect("run_dir", "elsewhere", exists("elsewhere/pairs.jsonl"), False, True),
    Effect("store", "other.sqlite", exists("other.sqlite"), False, True),
    Effect("recipe", "worsen", lambda run: run.side("rejected"), OLD, NEW),
    Effect("prompts.path", "riddles.jsonl", lambda r: r.first_prompt, "Question 0?", "Riddle 0?"),
    Effect("prompts.column", "topic", lambda run: run.first_prompt, "Question 0?", "Topic 0?"),
    Effect(
        "prompts.split",
        "test",
        lambda run: run.first_prompt,
        "Question 0?",
        "Question 1?",
        given={"prompts.path": "saved"},
    ),
    Effect("prompts.limit", 3, lambda run: len(run.rows("prompts.jsonl")), QUESTIONS, 3),
    Effect("prompts.seed", 1, numbers, drawn(0), drawn(1), given={"prompts.limit": 2}),
    Effect(
        "prompts.max_characters",
        5,
        lambda run: len(run.target),
        QUESTIONS - 1,
        0,
        error="the prompt has 11 characters, the limit is 5",
    ),
    Effect("prompts.ignore_given", True, lambda run: len(run.target), QUESTIONS - 1, QUESTIONS),
    Effect("prompts.contamination", ("tests.jsonl",), dropped("contaminated"), 0, 2),
    Effect("prompts.ngram", 8, dropped("contaminated"), 0, 1, given=LONG),
    Effect(
        "samples",
        3,
        lambda run: len(run.target),
        2 * (QUESTIONS - 1),
        3 * (QUESTIONS - 1),
        given={"recipe": "on_policy_judge"},
    ),
    Effect(
        "strip_thinking",
        False,
        lambda run: run.side("rejected"),
        OLD,
        f"<think>\nhm\n</think>\n{OLD}",
    ),
    Effect("revision.format", "full", lambda run: "<edits>" in run.asked_reviser, True, False),
    Effect("revision.rubric", "kind.md", lambda run: "Be kind." in run.asked_reviser, False, True),
    Effect(
        "revision.template",
        "own.jinja",
        lambda run: run.asked_reviser == f"Repair: {OLD}",
        False,
        True,
    ),
    Effect(
        "revision.direction",
        "worsen",
        lambda run: (run.side("chosen"), run.side("rejected")),
        (f"{NEW} again", OLD),
        (f"{OLD} again", f"{NEW} again"),
        given={"recipe": "judge_then_revise"},
    ),
    Effect(
        "revision.keep_length",
        True,
        lambda run: "about as long as it is" in run.asked_reviser,
        False,
        True,
    ),
    Effect("revision.ask_again", False, lambda r: len(r.reviser), QUESTIONS + 1, QUESTIONS),
    Effect("gate.preset", "paper", dropped("mentions_revision"), 1, 0),
    Effect("gate.max_edit_ratio", 0.01, dropped("over_edited"), 0, len(KEPT), error=NO_PAIR),
    Effect("gate.length_ratio", (0.5, 0.9), dropped("length_ratio"), 0, len(KEPT), error=NO_PAIR),
    Effect("gate.max_characters", 13, dropped("too_long"), 0, len(KEPT), error=NO_PAIR),
    Effect("gate.drop_refusals", False, dropped("refused"), 1, 0),
    Effect("gate.drop_mentions", False, dropped("mentions_revision"), 1, 0),
    Effect("verify", True, lambda run: len(run.judge), 0, 3, given={"controls.share": 0.0}),
    Effect("controls.share", 1.0, lambda run: len(run.judge), 3, 6, given=VERIFIED),
    Effect(
        "controls.seed",
        4,
        lambda run: [row["control"] for row in run.rows("verifications.jsonl")],
        controls(0),
        controls(4),
        given=VERIFIED | {"controls.share": 0.5},
    ),
    Effect("output.test_size", 0.9, in_test_split, held_out(0.1), held_out(0.9)),
    Effect("output.parquet", True, exists("run/dataset/train.parquet"), False, True),
    Effect(
        "max_cost",
        1e-6,
        lambda run: len(run.target),
        QUESTIONS - 1,
        0,
        given=PRICED,
        error="stopped before max_cost",
    ),
    Effect("offline", True, lambda run: len(run.target), QUESTIONS - 1, 0, error="offline"),
    Effect(
        "shard",
        "1/2",
        lambda run: len(run.target),
        QUESTIONS - 1,
        sum(Shard(1, 2).holds(one) for one in ids({*range(QUESTIONS)} - {GIVEN})),
    ),
]


def of_request(role, read):
    return lambda run: read(getattr(run, role)[0])


for _role in ("target", "reviser", "judge"):
    _given = VERIFIED if _role == "judge" else {}
    _served = {**_given, f"{_role}.base_url": SERVER}
    EFFECTS += [
        Effect(f"{_role}.{name}", value, of_request(_role, read), plain, changed, given)
        for name, value, read, plain, changed, given in (
            ("model", "another", lambda r: r.model, _role, "another", _given),
            ("revision", "second", lambda r: r.model, _role, f"{_role}@second", _given),
            ("max_tokens", 77, lambda r: r.sampling.max_tokens, 512, 77, _given),
            ("temperature", 0.1, lambda r: r.sampling.temperature, 0.7, 0.1, _given),
            ("top_p", 0.9, lambda r: r.sampling.top_p, 1.0, 0.9, _given),
            (
                "token_limit_field",
                "max_completion_tokens",
                lambda r: r.sampling.token_limit_field,
                "max_tokens",
                "max_completion_tokens",
                _served,
            ),
            ("extra_body", {"k": 1}, lambda r: r.sampling.extra_body, "", '{"k":1}', _served),
        )
    ]


def inputs(folder):
    """The files that the fields may name."""
    rows = [{"prompt": f"Question {n}?", "topic": f"Topic {n}?"} for n in range(QUESTIONS)]
    rows[GIVEN]["answer"] = OLD
    write_rows(folder / "questions.jsonl", rows)
    write_rows(folder / "riddles.jsonl", [{"prompt": f"Riddle {n}?"} for n in range(2)])
    shared = "one two three four five six seven eight"
    write_rows(folder / "long.jsonl", [{"prompt": f"Say {shared}"}, {"prompt": "Question 0?"}])
    write_rows(folder / "passages.jsonl", [{"question": f"{shared} and then some more words"}])
    write_rows(folder / "tests.jsonl", [{"question": f"Question {n}?"} for n in (3, 4)])
    splits = {"train": "Question 0?", "test": "Question 1?"}
    saved = {name: Dataset.from_list([{"prompt": prompt}]) for name, prompt in splits.items()}
    DatasetDict(saved).save_to_disk(folder / "saved")
    (folder / "kind.md").write_text("Be kind.")
    (folder / "own.jinja").write_text("Repair: {{ answer }}")


PLAIN = {
    "run_dir": "run",
    "prompts.path": "questions.jsonl",
    "target.model": "target",
    "reviser.model": "reviser",
    "judge.model": "judge",
    "revision.format": "edits",
}


def run_of(folder, monkeypatch, changes):
    """Make pairs in a folder of its own; the paths in the config are relative to it."""
    folder.mkdir()
    inputs(folder)
    monkeypatch.chdir(folder)
    values: dict[str, Any] = {}
    for key, value in (PLAIN | changes).items():
        section, _, name = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = value
    target, revising, judge = Target(), reviser(), Judge()
    error = ""
    try:
        generate(
            GenerateConfig(**values),
            target_model=target,
            reviser_model=revising,
            judge_model=judge,
        )
    except ClairApoError as stopped:
        error = str(stopped)
    return Run(folder, error, target.requests, revising.requests, judge.requests)


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.key)
def test_a_field_has_the_effect_that_its_row_says(tmp_path, monkeypatch, effect):
    assert effect.plain != effect.changed
    plain = run_of(tmp_path / "plain", monkeypatch, effect.given)
    assert (effect.of(plain), plain.error) == (effect.plain, "")
    changed = run_of(tmp_path / "changed", monkeypatch, {**effect.given, effect.key: effect.value})
    assert effect.of(changed) == effect.changed
    assert effect.error in changed.error
    assert bool(effect.error) == bool(changed.error), changed.error


@pytest.fixture
def servers(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "first key")
    monkeypatch.setenv("ANOTHER_KEY", "second key")
    with (
        ChatServer(lambda _: Reply(OLD, delay_s=0.02)) as first,
        ChatServer(lambda _: Reply(OLD)) as second,
    ):
        yield first, second


def served_run(folder, server, **target):
    folder.mkdir()
    inputs(folder)
    spec = {"model": "m", "base_url": server.url} | target
    config = GenerateConfig(
        run_dir=folder / "run",
        prompts={"path": str(folder / "questions.jsonl")},
        target=spec,
        reviser={"model": "reviser"},
        revision={"format": "edits"},
    )
    generate(config, reviser_model=reviser())


def test_a_model_is_asked_at_its_address(tmp_path, servers):
    first, second = servers
    served_run(tmp_path / "first", first)
    assert (len(first.asked), len(second.asked)) == (QUESTIONS - 1, 0)
    served_run(tmp_path / "second", first, base_url=second.url)
    assert (len(first.asked), len(second.asked)) == (QUESTIONS - 1, QUESTIONS - 1)


def test_the_key_is_the_one_of_the_named_variable(tmp_path, servers):
    server, _ = servers
    served_run(tmp_path / "first", server)
    served_run(tmp_path / "second", server, api_key_env="ANOTHER_KEY")
    keys = [asked.headers["authorization"] for asked in server.asked]
    assert set(keys[: QUESTIONS - 1]) == {"Bearer first key"}
    assert set(keys[QUESTIONS - 1 :]) == {"Bearer second key"}


def test_no_more_requests_are_in_flight_than_the_limit(tmp_path, servers):
    server, _ = servers
    served_run(tmp_path / "one", server, max_in_flight=1)
    assert server.most_under_way == 1
    served_run(tmp_path / "many", server)
    assert server.most_under_way > 1


SERVED = {"base_url", "api_key_env", "max_in_flight"}
ELSEWHERE = {
    "gate.checks": "tests/clair/test_checks.py",
    "scorer.checks": "tests/clair/test_checks.py",
    "scorer.scale": "tests/clair/test_scorer.py",
    "scorer.gap": "tests/clair/test_scorer.py",
    "pool": "tests/clair/test_pool.py",
    "pairs": "tests/clair/test_chains.py",
    "revision.fold": "tests/clair/stages/test_located.py",
    "gate.max_length": "tests/clair/filters/test_truncation.py",
    "gate.tokenizer": "tests/clair/filters/test_truncation.py",
    "gate.language_confidence": "tests/clair/filters/test_gate.py",
    "gate.length_difference": "tests/clair/filters/test_lengths.py",
    "gate.keywords": "tests/clair/filters/test_keywords.py",
    "prompts.near_duplicates": "tests/clair/stages/test_near_duplicates.py",
}
OF_A_MODEL_ELSEWHERE = {
    "mode": "tests/clair/test_later_answers.py",
    "serve": "tests/llm/backends/test_vllm_server.py",
    "serve_args": "tests/llm/backends/test_vllm_server.py",
    "price": "tests/clair/test_max_cost.py",
    "timeout_s": "tests/llm/backends/test_http.py",
    "patience_s": "tests/llm/backends/test_http_busy.py",
    "requests_per_minute": "tests/llm/backends/test_http_limits.py",
    "tokens_per_minute": "tests/llm/backends/test_http_limits.py",
    "batch_size": "tests/llm/backends/test_local.py",
    "dtype": "tests/llm/backends/test_local.py",
}


def test_every_field_has_a_row_here_or_a_test_elsewhere():
    keys = dotted_keys(GenerateConfig)
    leaves = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}
    known = {effect.key for effect in EFFECTS} | set(ELSEWHERE)
    # the sections of a scorer's model are those of any model, and read by the same code
    known |= {key for key in leaves if key.startswith(("scorer.reward.", "scorer.judge."))}
    for role in ("target", "reviser", "judge"):
        known |= {f"{role}.{name}" for name in SERVED | set(OF_A_MODEL_ELSEWHERE)}
    found = {re.sub(r"\.price\..*", ".price", key) for key in leaves}
    assert found == {re.sub(r"\.price\..*", ".price", key) for key in known}
    for path in (*ELSEWHERE.values(), *OF_A_MODEL_ELSEWHERE.values()):
        assert (ROOT / path).exists(), path
