"""The shipped configs of recipes with several models, run as a user runs them, at a real server."""

from clair_apo.clair import GenerateConfig, generate
from tests.helpers import ROOT
from tests.helpers.chat_server import Asked, ChatServer, Reply, completion
from tests.helpers.clair_runs import rows_of, segment_reply, write_rows

ANSWER = "Rome is in Italy. It was founded in 753 AD."
BETTER = "It was founded in 753 BC."
WORDS = {"strong": 3, "middling": 2, "weak": 1, "Qwen/Qwen3-32B": 2, "Qwen/Qwen3-0.6B": 1}
"""Sentences in the answer of each model that answers in a pool."""


def replying(asked: Asked) -> Reply:
    if "use_activation" in asked.body:
        score = [asked.text.count(".") / 4]
        data = [{"index": 0, "label": "LABEL_0", "probs": score, "num_classes": 1}]
        return Reply(body={"id": asked.key, "model": asked.body["model"], "data": data})
    if "<verdict>" in asked.text:
        claim = asked.text.rfind(BETTER) < asked.text.rfind("753 AD.")
        return Reply(body=completion(asked, f"<verdict>{'yes' if claim else 'no'}</verdict>"))
    if "<segments>" in asked.text:
        return Reply(body=completion(asked, segment_reply((2, BETTER))))
    text = "So it is. " * WORDS[asked.body["model"]] if asked.body["model"] in WORDS else ANSWER
    return Reply(body=completion(asked, text))


def run(tmp_path, name, *options):
    data = write_rows(tmp_path / "p.jsonl", [{"prompt": f"Question {n}?"} for n in range(4)])
    with ChatServer(replying) as server:
        config = GenerateConfig.from_command_line(
            [
                *("--config", str(ROOT / f"configs/clair/{name}.yaml")),
                *("--run_dir", str(tmp_path / "run"), "--prompts.path", str(data)),
                *(word.replace("URL", server.url) for word in options),
            ]
        )
        done = generate(config)
        assert (done.pairs, done.dropped) == (4, {})
        return rows_of(tmp_path, "pairs.jsonl"), server


def test_delta_pairs_the_stronger_model_s_answers_with_the_weaker_one_s(tmp_path):
    rows, server = run(tmp_path, "delta", *at_pool(2))
    assert {row["chosen"][0]["content"] for row in rows} == {"So it is. So it is."}
    assert {row["rejected"][0]["content"] for row in rows} == {"So it is."}
    assert len(server.asked) == 8


def test_pool_pairs_the_answer_that_the_reward_model_holds_for_best_with_the_worst(tmp_path):
    rows, server = run(tmp_path, "pool", *at_pool(3), "--scorer.reward.base_url", "URL")
    origins = [(row["provenance"]["chosen"], row["provenance"]["rejected"]) for row in rows]
    assert {(c["model"], c["score"], r["model"], r["score"]) for c, r in origins} == {
        ("strong", 0.75, "weak", 0.25)
    }
    assert len(server.asked) == 4 * (3 + 3)


def test_self_revision_asks_one_model_for_everything_and_has_it_verify(tmp_path):
    roles = ("target", "reviser", "judge")
    rows, server = run(tmp_path, "self_revision", *at(*roles))
    assert {row["chosen"][0]["content"] for row in rows} == {f"Rome is in Italy. {BETTER}"}
    assert {asked.body["model"] for asked in server.asked} == {"my-model"}
    assert {row["provenance"]["verified_by"] for row in rows} == {"my-model"}


def test_constitutional_revision_shows_the_reviser_the_principles(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # the config names its rubric from there
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    options = ("--target.model", "my-model", "--gate.max_length", "null")
    rows, server = run(tmp_path, "constitutional", *at("target", "reviser"), *options)
    assert {row["rejected"][0]["content"] for row in rows} == {ANSWER}
    first = (ROOT / "configs/clair/constitution.md").read_text("utf-8").splitlines()[2]
    asked = [text for text in server.texts if "<segments>" in text]
    assert len(asked) == 4
    assert all(first in text for text in asked)


def at(*roles):
    return tuple(word for role in roles for word in (f"--{role}.base_url", "URL"))


def at_pool(models):
    return at(*(f"pool.{number}" for number in range(models)))
