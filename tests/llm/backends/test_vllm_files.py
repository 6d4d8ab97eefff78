"""Files for `vllm run-batch`: a run writes them and ends, the next one reads what came back."""

import json
import shlex

import pytest

from clair_apo.errors import WaitingError
from clair_apo.llm import Completion, ModelSpec, RequestStore
from clair_apo.llm.backends import vllm_files
from clair_apo.llm.backends.select import model_of_mode
from clair_apo.llm.backends.vllm_files import FileChat
from tests.helpers.batch_endpoints import chat_completion
from tests.helpers.llm_requests import ask_for


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "the run" / "batch"


def questions(count):
    return [ask_for(f"q{n}", model="org/m") for n in range(count)]


def ask(folder, requests):
    """What the files answer, and the commands that the run ends with where it ends."""
    chat = FileChat(ModelSpec(model="org/m", mode="files"), folder)
    got = {}
    try:
        for group in chat.answer(requests):
            got |= {answer.request.key: answer for answer in group}
    except WaitingError as waiting:
        return got, [line.strip() for line in str(waiting).splitlines()[1:-1]]
    return got, []


def vllm_line(line, error=None):
    """An output line as vLLM 0.32 writes it."""
    response = {"status_code": 200, "request_id": "vllm-batch-1", "body": None}
    if error is None:
        response["body"] = chat_completion(line["body"])
    else:
        response["status_code"] = 400
    return {"id": "vllm-1", "custom_id": line["custom_id"], "response": response, "error": error}


def run_batch(command, error_for=(), cut=0):
    """Do what the command says, as `vllm run-batch` does."""
    words = shlex.split(command)
    assert words[:2] == ["vllm", "run-batch"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--model"] == "org/m"
    with open(options["-i"], encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert all(line["body"]["model"] == "org/m" for line in lines)
    answers = [
        vllm_line(line, "too long" if line["custom_id"] in error_for else None) for line in lines
    ]
    text = "".join(json.dumps(answer) + "\n" for answer in answers)
    with open(options["-o"], "w", encoding="utf-8") as file:
        file.write(text[: len(text) - cut])


def test_the_run_ends_with_a_command_and_the_next_run_reads_its_answers(folder):
    requests = questions(3)
    got, commands = ask(folder, requests)
    assert got == {}
    (command,) = commands
    run_batch(command)
    got, commands = ask(folder, requests)
    assert commands == []
    for request in requests:
        completion = Completion.from_response(got[request.key].response)
        assert completion.text == f"re: {request.messages[0].content}"


def test_a_line_holds_what_the_server_takes_beside_under_the_names_that_it_knows(folder):
    spec = ModelSpec(
        model="org/m",
        mode="files",
        max_tokens=9,
        token_limit_field="max_completion_tokens",
        temperature=None,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    request = ask_for("q").model_copy(update={"sampling": spec.sampling})
    with pytest.raises(WaitingError):
        list(FileChat(spec, folder).answer([request]))
    (path,) = folder.glob("*.in.jsonl")
    assert json.loads(path.read_text("utf-8"))["body"] == {
        "model": "org/m",
        "messages": [{"role": "user", "content": "q"}],
        "max_completion_tokens": 9,
        "top_p": 1.0,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_asking_again_before_the_files_are_answered_writes_nothing_new(folder):
    _, first = ask(folder, questions(3))
    files = {path: path.read_bytes() for path in folder.iterdir()}
    _, second = ask(folder, questions(3))
    assert first == second
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


def test_requests_are_spread_over_files_of_which_each_is_answered_on_its_own(folder, monkeypatch):
    monkeypatch.setattr(vllm_files, "MOST_REQUESTS", 2)
    requests = questions(5)
    _, commands = ask(folder, requests)
    assert len(commands) == 3
    run_batch(commands[0])
    got, rest = ask(folder, requests)
    assert len(got) == 2
    assert sorted(rest) == sorted(commands[1:])


def test_only_what_is_in_no_file_yet_is_written_into_a_new_one(folder):
    _, (first,) = ask(folder, questions(2))
    _, commands = ask(folder, questions(3))
    assert commands[0] == first
    (new,) = commands[1:]
    path = shlex.split(new)[3]
    with open(path, encoding="utf-8") as file:
        assert [json.loads(line)["custom_id"] for line in file] == [questions(3)[2].key]


def test_a_request_that_vllm_rejects_fails_alone_and_stays_so(folder):
    requests = questions(2)
    _, (command,) = ask(folder, requests)
    run_batch(command, error_for=[requests[0].key])
    for _ in range(2):
        got, commands = ask(folder, requests)
        assert commands == []
        assert got[requests[0].key].failure == "400: too long"
        assert got[requests[1].key].response


def test_an_answer_in_any_file_counts_more_than_a_failure_in_another(folder):
    (request,) = questions(1)
    _, (command,) = ask(folder, [request])
    run_batch(command, error_for=[request.key])
    again = folder / "0-again.out.jsonl"
    line = {"custom_id": request.key, "body": {"messages": [{"content": "q0"}]}}
    again.write_text(json.dumps(vllm_line(line)), encoding="utf-8")
    (answer,) = ask(folder, [request])[0].values()
    assert answer.response


def test_what_a_torn_output_does_not_answer_is_asked_in_a_new_file(folder):
    requests = questions(3)
    _, (command,) = ask(folder, requests)
    run_batch(command, cut=30)
    got, (second,) = ask(folder, requests)
    assert len(got) == 2
    assert second != command
    run_batch(second)
    got, commands = ask(folder, requests)
    assert len(got) == 3
    assert commands == []


def test_an_output_without_a_line_is_asked_again_under_another_name(folder):
    _, (command,) = ask(folder, questions(1))
    open(shlex.split(command)[5], "w", encoding="utf-8").close()
    _, (second,) = ask(folder, questions(1))
    assert second != command


def test_files_that_nobody_wants_answered_any_more_are_not_named(folder):
    ask(folder, questions(1))
    _, (command,) = ask(folder, [ask_for("changed", model="org/m")])
    path = shlex.split(command)[3]
    with open(path, encoding="utf-8") as file:
        assert "changed" in file.read()


@pytest.mark.parametrize(
    ("mode", "name"), [("live", "NoneType"), ("batch", "BatchChat"), ("files", "FileChat")]
)
def test_the_mode_of_a_spec_decides_who_answers(folder, mode, name):
    spec = ModelSpec(model="m", mode=mode, base_url="http://127.0.0.1:1/v1")
    with RequestStore(":memory:") as store:
        assert type(model_of_mode(spec, store, "r", folder)).__name__ == name


def test_the_batch_mode_without_a_server_is_refused():
    with pytest.raises(ValueError, match="mode 'batch' needs a server"):
        ModelSpec(model="m", mode="batch")


def test_an_answer_that_broke_off_is_asked_for_in_other_files_and_then_fails(folder):
    (request,) = questions(1)
    for number in range(vllm_files.TRIES):
        got, (command,) = ask(folder, [request])
        assert got == {}, number
        run_batch(command)
        output = folder / shlex.split(command)[5].rpartition("/")[2]
        output.write_text(output.read_text().replace('"stop"', '"abort"'))
    got, commands = ask(folder, [request])
    assert commands == []
    assert "'abort'" in got[request.key].failure
    output.write_text(output.read_text().replace('"abort"', '"stop"'))
    got, _ = ask(folder, [request])
    assert Completion.from_response(got[request.key].response).text == "re: q0"
