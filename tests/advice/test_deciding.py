"""What chosen answers have to gain under a model, and their deciding tokens alone."""

import pytest

from clair_apo.advice.advise import advise
from clair_apo.advice.ask import JudgedPair
from clair_apo.advice.config import AdviseConfig
from clair_apo.advice.deciding import chosen_logps
from clair_apo.llm import CachedChat, ModelSpec, RequestStore
from clair_apo.llm.backends.local import LocalChat
from clair_apo.models import find_model
from clair_apo.records import Message
from tests.helpers.clair_runs import user, write_rows
from tests.helpers.judging import JUDGE, prefers
from tests.helpers.tiny_chat import next_log_probs, save_tiny_chat

CHOSEN = "w3 w5 w7"


@pytest.fixture
def folder(tmp_path):
    return save_tiny_chat(tmp_path / "model")


def pair(prompt, chosen=CHOSEN):
    return JudgedPair(id="p", prompt=prompt, chosen=chosen, rejected="w1", rejected_by=None)


def test_a_chosen_answer_is_scored_token_by_token_with_its_end(folder):
    chat = LocalChat(find_model(str(folder), print))
    prompt = chat.tokenizer("<user> w2 <eos> <assistant>")["input_ids"]
    whole = deciding = 0.0
    likeliest = []
    for token in [*chat.tokenizer(CHOSEN)["input_ids"], chat.tokenizer.eos_token_id]:
        logps = next_log_probs(chat, prompt)
        likeliest.append(logps.argmax().item())
        whole += logps[token].item()
        deciding += logps[token].item() if likeliest[-1] != token else 0.0
        prompt = [*prompt, token]
    (found,) = chosen_logps(chat, [pair(user("w2"))])
    assert found.whole == pytest.approx(whole, rel=1e-4)
    assert found.deciding == pytest.approx(deciding, rel=1e-4)
    # an answer of the likeliest token alone decides less than it has to gain
    first = chat.tokenizer.decode([likeliest[0]])
    (other,) = chosen_logps(chat, [pair(user("w2"), first)])
    assert other.whole < other.deciding


def test_a_conversation_that_the_template_does_not_take_is_left_out(folder):
    chat = LocalChat(find_model(str(folder), print))
    system = (Message(role="system", content="w1"), *user("w2"))
    assert chosen_logps(chat, [pair(system)]) == []


def test_an_advice_says_which_beta_leaves_a_gradient_to_the_deciding_tokens(folder, tmp_path):
    spec = ModelSpec(model=str(folder))
    with RequestStore(tmp_path / "r.sqlite") as store:
        identity = CachedChat(spec, store).identity
    origin = {"rejected": {"kind": "response", "model": identity}}
    rows = [
        {
            "prompt": f"w{n}",
            "chosen": f"w9 w{n + 10} {CHOSEN}",
            "rejected": "w1",
            "provenance": origin,
        }
        for n in range(5)
    ]
    config = AdviseConfig(
        run_dir=tmp_path / "advice",
        pairs=str(write_rows(tmp_path / "p.jsonl", rows)),
        model=spec,
        judge=JUDGE,
    )
    found = advise(config, judge_model=prefers("w9"))
    assert found.advice == "zero"
    assert 0 < found.saturation.deciding_nats <= found.saturation.chosen_nats
    assert found.saturation.beta_for_deciding == pytest.approx(
        1.7627 / found.saturation.deciding_nats, rel=1e-3
    )
