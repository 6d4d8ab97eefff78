"""The model in this process, on a tiny random one; and the embedded model for real."""

import re
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig

from clair_apo.errors import ModelNotFoundError
from clair_apo.llm import CachedChat, Completion, ModelSpec, RequestStore
from clair_apo.llm.backends.local import LocalChat
from clair_apo.models import find_model
from clair_apo.records import Message
from tests.helpers.llm_requests import answers_of, ask_for
from tests.helpers.tiny_chat import SPECIAL, WINDOW, WORDS, next_log_probs, save_tiny_chat

VOCABULARY = SPECIAL + WORDS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread():
    """Threads that share a tiny product wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_chat(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def chat(folder):
    return LocalChat(find_model(str(folder)))


def answered_by(chat, requests):
    return [a for group in chat.plan(requests) for batch in chat.answer(group) for a in batch]


def texts(chat, requests):
    return {
        answered.request.key: Completion.from_response(answered.response).text
        for answered in answered_by(chat, requests)
    }


def one(chat, request):
    (answered,) = answered_by(chat, [request])
    return Completion.from_response(answered.response)


def all_of(chat, requests):
    return [Completion.from_response(a.response) for a in answered_by(chat, requests)]


def mixed_requests():
    prompts = [" ".join(WORDS[n : n + 1 + 3 * (n % 5)]) for n in range(12)]
    return [ask_for(prompt, max_tokens=8, sample=n % 2) for n, prompt in enumerate(prompts)]


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_an_answer_does_not_depend_on_its_neighbours_or_the_batch_size(chat, folder, batch_size):
    requests = mixed_requests()
    together = texts(chat, requests)
    other = LocalChat(find_model(str(folder)), batch_size=batch_size)
    assert texts(other, requests[::-1]) == together
    assert len(set(together.values())) == len(requests), "random answers are expected to differ"


def test_the_same_request_is_answered_the_same_and_another_sample_otherwise(chat):
    request = ask_for("w1 w2 w3", max_tokens=16)
    assert one(chat, request) == one(chat, request)
    assert one(chat, request) != one(chat, request.model_copy(update={"sample": 1}))


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.0}, {"temperature": 0.9, "top_p": 1e-6}], ids=["t0", "tiny-p"]
)
def test_temperature_0_and_a_tiny_top_p_take_the_likeliest_token_always(chat, sampling):
    request = ask_for("w5 w6", max_tokens=10, **sampling)
    ids = [VOCABULARY.index(t) for t in ("<user>", "w5", "w6", "<eos>", "<assistant>")]
    start = len(ids)
    while len(ids) < start + 10 and ids[-1:] != [1]:
        ids.append(int(next_log_probs(chat, ids).argmax()))
        if ids[-1] == 1:
            break
    said = [VOCABULARY[i] for i in ids[start:] if VOCABULARY[i] not in SPECIAL]
    assert one(chat, request).text == " ".join(said)
    assert said


def _first_tokens(chat, count, **sampling):
    requests = [ask_for("w7", max_tokens=1, sample=n, **sampling) for n in range(count)]
    found = Counter(texts(chat, requests).values())
    # what is no word is not spelled in an answer: one bin for all of it
    return [found[word] for word in WORDS] + [found[""]]


def _probabilities(chat, temperature):
    ids = [VOCABULARY.index(token) for token in ("<user>", "w7", "<eos>", "<assistant>")]
    return (next_log_probs(chat, ids) / temperature).softmax(-1).double()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_are_drawn_with_the_probabilities_of_the_model(folder, temperature):
    chat = LocalChat(find_model(str(folder)), batch_size=500)
    count = 2000
    p = _probabilities(chat, temperature)
    p = torch.cat([p[len(SPECIAL) :], p[: len(SPECIAL)].sum()[None]])
    counts = torch.tensor(_first_tokens(chat, count, temperature=temperature))
    assert counts.sum() == count
    often = p * count >= 5  # the test needs some expected draws in every bin
    observed = [*counts[often].tolist(), int(counts[~often].sum())]
    expected = [*(p[often] * count).tolist(), float(p[~often].sum() * count)]
    result = chisquare(observed, [e * count / sum(expected) for e in expected])
    assert result.pvalue > 1e-3  # the seeds are fixed: this passes always or never
    assert often.sum() >= 10


def test_top_p_draws_from_the_smallest_set_of_tokens_that_holds_the_share(folder):
    chat = LocalChat(find_model(str(folder)), batch_size=500)
    p = _probabilities(chat, 1.0)
    share, inside, held = 0.5, set(), 0.0
    for token in p.argsort(descending=True).tolist():
        inside.add(VOCABULARY[token] if token >= len(SPECIAL) else "")
        held += float(p[token])
        if held >= share:
            break
    counts = _first_tokens(chat, 1000, temperature=1.0, top_p=share)
    drawn = {word for word, n in zip([*WORDS, ""], counts, strict=True) if n}
    assert drawn == inside
    assert len(inside) < len(WORDS) / 2


def test_an_answer_ends_at_the_limit_with_the_reason_length(chat):
    answers = all_of(chat, [ask_for("w1", max_tokens=3, sample=n) for n in range(20)])
    cut = [a for a in answers if a.finish_reason == "length"]
    assert cut
    assert {a.completion_tokens for a in cut} == {3}


def test_an_answer_ends_at_the_end_token_with_the_reason_stop(chat):
    requests = [ask_for("w1 w2", max_tokens=WINDOW - 10, sample=n) for n in range(20)]
    answers = all_of(chat, requests)
    stopped = [a for a in answers if a.finish_reason == "stop"]
    assert stopped
    for answer in stopped:
        # the tokenizer knows one token a word; <eos> is one more, and other specials are unspelled
        assert answer.completion_tokens >= len(answer.text.split()) + 1
        assert answer.completion_tokens < WINDOW - 10
    assert {a.prompt_tokens for a in answers} == {5}  # <user> w1 w2 <eos> <assistant>


def test_an_end_token_that_only_the_tokenizer_names_ends_answers_too(tmp_path):
    folder = save_tiny_chat(tmp_path / "m")
    GenerationConfig().save_pretrained(folder)  # names none
    config = (
        (folder / "config.json").read_text().replace('"eos_token_id": 1', '"eos_token_id": null')
    )
    (folder / "config.json").write_text(config)
    chat = LocalChat(find_model(str(folder)))
    answers = all_of(chat, [ask_for("w1", max_tokens=40, sample=n) for n in range(10)])
    assert "stop" in {answer.finish_reason for answer in answers}


def test_what_a_folder_brings_of_generation_settings_changes_no_answer(chat, tmp_path):
    folder = save_tiny_chat(tmp_path / "m")
    GenerationConfig(
        eos_token_id=1,
        pad_token_id=0,
        do_sample=True,
        temperature=0.1,
        top_k=1,
        num_beams=2,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        min_new_tokens=5,
    ).save_pretrained(folder)
    requests = mixed_requests()
    assert texts(LocalChat(find_model(str(folder))), requests) == texts(chat, requests)


def test_requests_with_other_sampling_settings_are_answered_in_one_go(chat):
    requests = [ask_for("w1", max_tokens=n, temperature=t) for n in (2, 4) for t in (0.0, 0.9)]
    together = texts(chat, requests)
    assert together == {r.key: one(chat, r).text for r in requests}


def test_the_window_is_the_limit_and_a_longer_prompt_fails_alone(chat):
    overhead = 3  # <user>, <eos>, <assistant>
    fits = ask_for(" ".join(["w1"] * (WINDOW - 4 - overhead)), max_tokens=4)
    one(chat, fits)
    longer = ask_for(" ".join(["w1"] * (WINDOW - 3 - overhead)), max_tokens=4)
    neighbour = ask_for("w2", max_tokens=4)
    found = {answered.request.key: answered for answered in answered_by(chat, [neighbour, longer])}
    assert found[neighbour.key].response is not None
    assert found[longer.key].response is None
    assert re.search(rf"{WINDOW - 3} tokens and 4 .* exceed {WINDOW}", found[longer.key].failure)


def test_batches_are_a_function_of_the_requests_whatever_their_order(folder):
    chat = LocalChat(find_model(str(folder)), batch_size=5)
    requests = mixed_requests()
    keys = [[request.key for request in group] for group in chat.plan(requests)]
    assert [len(group) for group in keys] == [5, 5, 2]
    assert [[r.key for r in group] for group in chat.plan(requests[::-1])] == keys


def test_a_batch_is_handed_over_whole(folder):
    chat = LocalChat(find_model(str(folder)), batch_size=5)
    group = chat.plan(mixed_requests())[0]
    assert [len(batch) for batch in chat.answer(group) if batch] == [5]


def test_a_conversation_that_the_template_refuses_fails_alone_and_says_so(chat):
    request = ask_for("w1").model_copy(
        update={"messages": (Message(role="system", content="s"), *ask_for("w1").messages)}
    )
    (answered,) = answered_by(chat, [request])
    assert answered.response is None
    assert "takes no conversation with such turns" in answered.failure


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    folder = save_tiny_chat(tmp_path / "m", template=None)
    with pytest.raises(ModelNotFoundError, match="has no chat template"):
        LocalChat(find_model(str(folder)))


@pytest.mark.parametrize("revision", ["v2", None])
def test_tokenizer_and_weights_are_those_of_the_revision(monkeypatch, chat, revision):
    loaded = []

    def load(location, revision="main", **_):
        loaded.append((location, revision))
        return chat.tokenizer if len(loaded) == 1 else chat.model

    for kind in ("AutoTokenizer", "AutoModelForCausalLM"):
        monkeypatch.setattr(f"clair_apo.llm.backends.local.{kind}.from_pretrained", load)
    LocalChat(find_model("org/model", revision=revision))
    assert loaded == [("org/model", revision or "main")] * 2


@pytest.mark.parametrize("damage", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_folder_is_refused_by_its_name(tmp_path, damage):
    folder = save_tiny_chat(tmp_path / "m")
    (folder / damage).write_bytes(b"\x00damaged")
    with pytest.raises(ModelNotFoundError, match=r"model '.*m' cannot be loaded: .+") as caught:
        LocalChat(find_model(str(folder)))
    assert "\n" not in str(caught.value)


def test_a_local_model_behind_the_store_is_loaded_at_the_first_unanswered_request_only(
    folder, tmp_path, monkeypatch
):
    spec = ModelSpec(model=str(folder), max_tokens=4)
    with RequestStore(tmp_path / "s.sqlite") as store:
        first = CachedChat(spec, store)
        requests = [first.request((Message(role="user", content=word),)) for word in WORDS[:3]]
        answers = answers_of(first, requests)
        assert first.meter.asked == 3
        monkeypatch.setattr(
            "clair_apo.llm.backends.local.LocalChat.__init__", None
        )  # loading would fail
        again = CachedChat(spec, store)
        assert answers_of(again, requests) == answers
        assert (again.meter.asked, again.meter.reused) == (0, 3)


def test_bf16_is_another_identity_and_answers_too(folder, tmp_path):
    with RequestStore(tmp_path / "s.sqlite") as store:
        chats = [CachedChat(ModelSpec(model=str(folder), dtype=d), store) for d in ("fp32", "bf16")]
        assert chats[0].identity != chats[1].identity
    chat = LocalChat(find_model(str(folder)), dtype="bf16")
    assert one(chat, ask_for("w1", max_tokens=3)).completion_tokens <= 3


@pytest.mark.real  # 3 seconds
def test_the_embedded_model_really_answers_eight_prompts():
    chat = LocalChat(find_model("smollm2-135m"))
    prompts = [f"What is {n} plus {n}? Answer in one short sentence." for n in range(1, 8)]
    requests = [ask_for(text, max_tokens=24, temperature=0.0) for text in prompts]
    requests.append(ask_for("What is the capital of France?", max_tokens=24, temperature=0.0))
    answers = texts(chat, requests)
    assert "Paris" in answers[requests[-1].key]
    assert all(len(text.split()) >= 3 for text in answers.values())
