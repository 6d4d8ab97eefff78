"""The suite `health` on models in this process: drift and held-out pairs, against plain sums."""

import math

import pytest
import torch

from clair_apo.evaluation import evaluate
from clair_apo.evaluation.suites.figures import StatisticFigure
from clair_apo.evaluation.suites.health import HealthSuite
from clair_apo.llm.backends.local import LocalChat
from clair_apo.models import find_model
from tests.helpers.clair_runs import write_rows
from tests.helpers.evaluations import Ruled, evaluation_config, results_of, rows_of
from tests.helpers.tiny_chat import save_tiny_chat

WORDS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9"]


@pytest.fixture
def config(tmp_path):
    folders = {n: save_tiny_chat(tmp_path / n, seed=s) for n, s in (("trained", 1), ("base", 2))}
    rows = [{"prompt": p, "chosen": f"{p} w10", "rejected": "w11 w12"} for p in WORDS]
    pairs = write_rows(tmp_path / "pairs.jsonl", rows)
    return evaluation_config(
        tmp_path,
        models={
            name: {"model": str(folder), "max_tokens": 8, "temperature": 1.0}
            for name, folder in folders.items()
        },
        prompts=None,
        pairs={"path": str(pairs), "held_out": 1},
        suites=[{"suite": "health"}],
    )


def token_logps(folder, prompt, answer, ended):
    """Log-probs of the answer's tokens, one forward for each."""
    chat = LocalChat(find_model(str(folder)))
    turns = [{"role": "user", "content": prompt}]
    ids = list(
        chat.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    )
    found = []
    more = chat.tokenizer(answer, add_special_tokens=False)["input_ids"]
    for token in more + [chat.tokenizer.eos_token_id] * ended:
        with torch.inference_mode():
            logits = chat.model(torch.tensor([ids])).logits[0, -1]
        found.append(float(logits.log_softmax(-1)[token]))
        ids.append(token)
    return found


def test_drift_is_the_log_ratio_on_the_models_own_answers(tmp_path, config):
    evaluate(config)
    health = results_of(tmp_path)["suites"]["health"]
    answers = rows_of(tmp_path, "answers", "trained.jsonl")
    k1, k3 = [], []
    for row in answers:
        ended = row["finish_reason"] == "stop"
        prompt = row["prompt"][0]["content"]
        p, q = (
            token_logps(tmp_path / n, prompt, row["answer"], ended) for n in ("trained", "base")
        )
        k1.append(sum(p) - sum(q))
        k3.append(sum(math.exp(b - a) - 1 - (b - a) for a, b in zip(p, q, strict=True)))
    assert health["trained"]["kl_k1"]["mean"] == pytest.approx(sum(k1) / 3, rel=1e-3)
    assert health["trained"]["kl_k3"]["mean"] == pytest.approx(sum(k3) / 3, rel=1e-3)
    assert "drift is measured from" in health["base"]["kl_k1"]["unavailable"]


def test_log_probs_of_held_out_pairs_differ_between_models_by_the_log_ratio(tmp_path, config):
    evaluate(config)
    health = results_of(tmp_path)["suites"]["health"]
    sums = {
        name: [sum(token_logps(tmp_path / name, p, f"{p} w10", True)) for p in WORDS]
        for name in ("trained", "base")
    }
    for name, values in sums.items():
        assert health[name]["chosen"]["mean"] == pytest.approx(sum(values) / 3, rel=1e-4)
    ratio = (sum(sums["trained"]) - sum(sums["base"])) / 3
    difference = health["differences"]["trained - base"]
    assert difference["chosen"]["mean"] == pytest.approx(ratio, rel=1e-3)
    assert difference["margin"]["mean"] == pytest.approx(
        difference["chosen"]["mean"] - difference["rejected"]["mean"]
    )


def test_log_probs_are_computed_once(tmp_path, config, monkeypatch):
    evaluate(config)
    before = results_of(tmp_path)
    monkeypatch.setattr("clair_apo.evaluation.session.score", None)
    file = next((config.run_dir / "log_probs").glob("*.jsonl"))
    file.write_text(file.read_text("utf-8") + '{"key": "torn', encoding="utf-8")
    evaluate(config)
    assert results_of(tmp_path) == before


def test_models_behind_a_server_say_why_there_is_no_drift(tmp_path):
    evaluate(evaluation_config(tmp_path), chats={n: Ruled(["So."]) for n in ("trained", "base")})
    health = results_of(tmp_path)["suites"]["health"]
    assert "not in this process" in health["trained"]["kl_k1"]["unavailable"]


def test_distinct_n_counts_the_same_number_of_words_of_each_model(tmp_path):
    short, long = "a b c d", " ".join(f"word{n}" for n in range(50))
    chats = {"trained": Ruled([short]), "base": Ruled([long])}
    evaluate(evaluation_config(tmp_path), chats=chats)
    health = results_of(tmp_path)["suites"]["health"]
    # six answers of four words, one of which the jackknife leaves out: 20 words, 4 of them distinct
    assert health["trained"]["distinct_1"]["mean"] == 4 / 20
    # all in one answer
    assert health["base"]["distinct_1"]["mean"] == 1
    assert health["base"]["distinct_1"]["standard_error"] == 0
    assert "of the first 20 words" in health["remarks"][0]


def test_a_refusal_an_empty_answer_and_a_copy_are_counted(tmp_path):
    texts = ["", "I'm sorry, but I can't help with that.", "Please answer question number now"]
    evaluate(evaluation_config(tmp_path), chats={n: Ruled(texts) for n in ("trained", "base")})
    health = results_of(tmp_path)["suites"]["health"]["trained"]
    assert health["empty"]["mean"] == health["refused"]["mean"] == pytest.approx(1 / 3)
    # of the third answer's two 4-grams one stands in the prompt
    assert health["copied"]["mean"] == pytest.approx(1 / 6)
    row = rows_of(tmp_path, "health", "trained.jsonl")[1]
    assert (row["refused"], row["empty"]) == (1, 0)


def test_the_suite_says_what_each_figure_is():
    import clair_apo.evaluation.suites.health as module

    for name in ("ended", "rep_2", "distinct_1", "kl_k1", "margin", "copied"):
        assert name in module.__doc__
    assert HealthSuite().key == "health"
    assert StatisticFigure(["a"], lambda ids: 1.0, jackknife=True).interval().low is None
