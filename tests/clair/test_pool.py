"""Pairs out of the answers of several models: the recipes `pool` and `delta`."""

import pytest

from clair_apo.clair import generate
from clair_apo.files import read_jsonl
from clair_apo.records import Response
from clair_apo.report import write_report
from tests.helpers.clair_runs import Replying, cut, rows_of
from tests.helpers.scripted_roles import OfPool, config_for, models, server_model


def texts_of(folder):
    return [
        (row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in rows_of(folder, "pairs.jsonl")
    ]


def test_delta_prefers_the_first_model_s_answer_and_asks_no_judge(tmp_path):
    config = config_for(tmp_path, "delta", judge=None, reviser=None)
    roles = models()
    done = generate(config, **roles)
    assert (done.pairs, done.asked) == (6, 12)
    assert set(texts_of(tmp_path)) == {("The answer is plain. Really so.", "The answer is plain.")}
    provenance = rows_of(tmp_path, "pairs.jsonl")[0]["provenance"]
    assert (provenance["chosen"]["model"], provenance["rejected"]["model"]) == ("first", "second")
    assert roles["target_model"].requests == []


def test_delta_drops_a_prompt_of_which_a_side_is_cut(tmp_path):
    config = config_for(tmp_path, "delta", judge=None, reviser=None)
    second = Replying([("number 1?", cut("no end", 100)), ("", "Short.")])
    done = generate(config, pool_models=(OfPool(1), second))
    assert (done.pairs, done.dropped) == (5, {"cut": 1})


def test_pool_takes_best_and_worst_of_all_and_keeps_every_answer_and_score(tmp_path):
    pool = tuple(server_model(f"model-{n}") for n in range(4))
    reward = {"reward": {"model": "rm", "base_url": "http://127.0.0.1:9/v1"}}
    config = config_for(tmp_path, "pool", judge=None, reviser=None, pool=pool, scorer=reward)
    scorer = Replying([(" Really so." * n, str(float(n))) for n in (3, 2, 1, 0)])
    answering = tuple(OfPool(n) for n in (2, 0, 3, 1))
    done = generate(config, pool_models=answering, scorer_model=scorer)
    assert done.pairs == 6
    row = rows_of(tmp_path, "pairs.jsonl")[0]["provenance"]
    assert (row["chosen"]["model"], row["rejected"]["model"]) == ("model-2", "model-1")
    kept = [
        response
        for n in range(4)
        for response in read_jsonl(tmp_path / "run" / f"pool_{n}.jsonl", Response)
    ]
    assert len(kept) == 24
    scores = rows_of(tmp_path, "judgements.jsonl")[0]["scores"]
    assert [(one["sample"], one["score"]) for one in scores] == [
        (0, 2.0),
        (1, 0.0),
        (2, 3.0),
        (3, 1.0),
    ]


def test_a_model_of_the_pool_that_fails_on_a_prompt_is_left_out_of_it(tmp_path):
    pool = tuple(server_model(f"model-{n}") for n in range(3))
    config = config_for(tmp_path, "pool", reviser=None, pool=pool)
    failing = Replying([("number 1?", None), ("", "The answer is plain. Really so. Really so.")])
    roles = models() | {"pool_models": (OfPool(0), failing, OfPool(1))}
    done = generate(config, **roles)
    assert done.pairs == 6
    chosen = [row["provenance"]["chosen"]["model"] for row in rows_of(tmp_path, "pairs.jsonl")]
    assert sorted(chosen) == ["model-1"] * 5 + ["model-2"]


def test_a_prompt_with_one_usable_answer_is_dropped(tmp_path):
    config = config_for(tmp_path, "pool", reviser=None)
    failing = Replying([("number 1?", None), ("", "Short.")])
    done = generate(config, **models() | {"pool_models": (OfPool(1), failing)})
    assert (done.pairs, done.dropped) == (5, {"empty": 1})
    (dropped,) = rows_of(tmp_path, "dropped.jsonl")
    assert dropped["detail"] == "1 of 2 models gave a usable answer"


def test_the_card_names_every_model_of_the_pool(tmp_path):
    config = config_for(tmp_path, "delta", judge=None, reviser=None)
    generate(config, **models())
    card = write_report(tmp_path / "run").card.read_text("utf-8")
    assert "| Pool 1 | first; temperature 0.7" in card
    assert "| Pool 2 | second; temperature 0.7" in card


@pytest.mark.parametrize(
    ("recipe", "pool", "words"),
    [
        ("clair", 1, "asks no pool of models: take pool out"),
        ("delta", 3, "needs two models in pool, and there are 3"),
        ("pool", 1, "needs two or more models: list them in pool"),
    ],
)
def test_a_pool_of_the_wrong_size_is_refused(tmp_path, recipe, pool, words):
    config = config_for(tmp_path, recipe)
    values = config.model_dump() | {"pool": [server_model(f"m{n}") for n in range(pool)]}
    with pytest.raises(ValueError, match=words):
        type(config)(**values)
