"""Reward models: a sequence classifier in this process, and vLLM's address for scores."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from werkzeug import Response

from clair_apo.errors import ModelNotFoundError, RequestError
from clair_apo.llm import CachedChat, ModelSpec, RequestStore, RewardSpec
from clair_apo.llm.backends.reward import RewardChat
from clair_apo.models import find_model
from clair_apo.records import Message
from tests.helpers.tiny_chat import save_tiny_chat
from tests.helpers.tiny_reward import save_tiny_reward

TEXTS = ["w1", "w2 w3 w4", "w5 w6 w7 w8 w9 w10", "w11 w12"]


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def conversation(answer):
    return (Message(role="user", content="w1 w2"), Message(role="assistant", content=answer))


def asking(chat, texts):
    def row(text):
        (answer,) = yield (chat.request(conversation(text)),)
        return answer

    return list(chat.converse(row(text) for text in texts))


def by_itself(folder, text):
    """The score of one conversation, without padding and without our code."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    messages = [message.model_dump() for message in conversation(text)]
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    with torch.inference_mode():
        return float(model(torch.tensor([ids])).logits[0, 0])


def test_scores_in_a_batch_are_those_of_each_conversation_by_itself(tmp_path):
    folder = save_tiny_reward(tmp_path / "reward")
    chat = CachedChat(RewardSpec(model=str(folder)), RequestStore(tmp_path / "s.sqlite"))
    answers = asking(chat, TEXTS)
    found = [float(answer.completion.text) for answer in answers]
    assert found == pytest.approx([by_itself(folder, text) for text in TEXTS], abs=1e-5)
    assert len(set(found)) == len(TEXTS)


def test_a_score_is_computed_once_and_kept_to_the_last_bit(tmp_path):
    folder = save_tiny_reward(tmp_path / "reward")
    spec = RewardSpec(model=str(folder))
    first = asking(CachedChat(spec, RequestStore(tmp_path / "s.sqlite")), TEXTS)
    offline = CachedChat(spec, RequestStore(tmp_path / "s.sqlite"), offline=True)
    again = asking(offline, TEXTS)
    assert [a.completion.text for a in again] == [a.completion.text for a in first]


def test_a_score_and_an_answer_of_the_same_folder_have_different_keys(tmp_path):
    folder = save_tiny_reward(tmp_path / "reward")
    store = RequestStore(tmp_path / "s.sqlite")
    both = RewardSpec(model=str(folder)), ModelSpec(model=str(folder), max_tokens=1, temperature=0)
    keys = {CachedChat(spec, store).request(conversation("w1")).key for spec in both}
    assert len(keys) == 2


def test_a_conversation_that_is_too_long_has_no_score_and_the_others_have_theirs(tmp_path):
    folder = save_tiny_reward(tmp_path / "reward")
    chat = CachedChat(RewardSpec(model=str(folder)), RequestStore(tmp_path / "s.sqlite"))
    long, short = asking(chat, ["w1 " * 100, "w1"])
    assert "tokens, and" in long.failure
    assert short.completion


def test_a_score_that_is_no_number_is_none(tmp_path):
    folder = save_tiny_reward(tmp_path / "reward")
    chat = RewardChat(find_model(str(folder)))
    torch.nn.init.constant_(chat.model.score.weight, torch.nan)
    cached = CachedChat(RewardSpec(model=str(folder)), RequestStore(tmp_path / "s.sqlite"), chat)
    (answer,) = asking(cached, ["w1"])
    assert answer.failure.endswith("gives nan in place of a score")


@pytest.mark.parametrize(("of_model", "of_tokenizer"), [(0, "<eos>"), (0, None), (None, None)])
def test_a_score_is_taken_at_the_last_token_whatever_pads_the_batch(
    tmp_path, of_tokenizer, of_model
):
    folder = save_tiny_reward(tmp_path / "reward")  # its conversations end with <eos>
    change_json(folder / "config.json", pad_token_id=of_model)
    change_json(folder / "tokenizer_config.json", pad_token=of_tokenizer)
    chat = CachedChat(RewardSpec(model=str(folder)), RequestStore(tmp_path / "s.sqlite"))
    found = [float(answer.completion.text) for answer in asking(chat, TEXTS)]
    assert found == pytest.approx([by_itself(folder, text) for text in TEXTS], abs=1e-5)


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    folder = save_tiny_chat(tmp_path / "chat")
    change_json(folder / "config.json", id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
    with pytest.raises(ModelNotFoundError, match=r"no weights for score\.weight"):
        RewardChat(find_model(str(folder)))


def test_a_classifier_of_several_labels_is_no_reward_model(tmp_path):
    folder = save_tiny_reward(tmp_path / "reward", labels=3)
    with pytest.raises(ModelNotFoundError, match="has 3 labels, and a reward model has one"):
        RewardChat(find_model(str(folder)))


def test_what_is_for_a_model_that_writes_is_refused():
    with pytest.raises(ValueError, match="max_tokens is for a model that writes"):
        RewardSpec(model="m", max_tokens=9)
    spec = RewardSpec(model="m")
    assert RewardSpec(**spec.model_dump()) == spec


def served(httpserver, tmp_path, reply, status=200, **settings):
    asked = []

    def handler(request):
        asked.append(request.get_json())
        return Response(reply(asked[-1]), status, content_type="application/json")

    httpserver.expect_request("/classify", method="POST").respond_with_handler(handler)
    spec = RewardSpec(model="rm", base_url=httpserver.url_for("/v1"), **settings)
    return CachedChat(spec, RequestStore(tmp_path / "s.sqlite")), asked


def test_a_server_is_asked_for_the_raw_number_of_the_whole_conversation(httpserver, tmp_path):
    def reply(body):
        length = len(body["messages"][-1]["content"])
        return json.dumps(
            {
                "object": "list",
                "model": "rm",
                "data": [{"index": 0, "label": "LABEL_0", "probs": [-length / 3]}],
                "usage": {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0},
            }
        )

    chat, asked = served(httpserver, tmp_path, reply)
    answers = asking(chat, TEXTS)
    assert [float(a.completion.text) for a in answers] == [-len(text) / 3 for text in TEXTS]
    assert {a.completion.prompt_tokens for a in answers} == {7}
    assert {body["use_activation"] for body in asked} == {False}
    assert {tuple(m["role"] for m in body["messages"]) for body in asked} == {("user", "assistant")}


@pytest.mark.parametrize(
    "reply",
    [
        '{"data": [{"probs": [0.1, 0.9]}], "usage": {}}',
        '{"data": [], "usage": {}}',
        '{"choices": [{"message": {"content": "8"}, "finish_reason": "stop"}]}',
    ],
)
def test_a_server_that_is_no_reward_model_ends_the_run_in_one_line(httpserver, tmp_path, reply):
    chat, _ = served(httpserver, tmp_path, lambda body: reply, patience_s=0, timeout_s=5)
    with pytest.raises(RequestError) as caught:
        asking(chat, ["w1"])
    assert "\n" not in str(caught.value)
