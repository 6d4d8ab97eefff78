"""Parquet beside the JSONL, and a push to a server that speaks the hub's API."""

import base64
import json
from typing import Literal

import pytest
from huggingface_hub import HfApi, constants
from pyarrow import parquet
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from clair_apo.clair import dataset
from clair_apo.clair.dataset import arrow_schema, push_to_hub, write_parquet
from clair_apo.errors import DataError, RunError
from clair_apo.files import write_jsonl
from clair_apo.records import Conversation, DropReason, Message, Record, Text


class Source(Record):
    kind: Literal["given", "asked"]
    keys: tuple[str, ...] = ()
    cost: float | None = None


class Row(Record):
    prompt: Conversation
    number: int
    flag: bool = False
    text: Text = ""
    reason: DropReason | None = None
    source: Source
    judge: Source | None = None


def row(number: int, **more: object) -> Row:
    asked = (Message(role="system", content="ö\n"), Message(role="user", content=f"q{number}"))
    return Row(prompt=asked, number=number, source=Source(kind="given"), **more)


@pytest.fixture
def rows(tmp_path):
    judge = Source(kind="asked", keys=("k1", "k2"), cost=0.25)
    made = [row(1), row(2, text="ß 𝄞", flag=True), row(3, judge=judge, reason=DropReason.CUT)]
    write_jsonl(tmp_path / "rows.jsonl", made)
    return made


def test_parquet_holds_the_same_records_as_the_jsonl(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(dataset, "ROWS_AT_ONCE", 2)  # so that they come in more than one group
    path = write_parquet(tmp_path / "rows.jsonl", Row)
    assert path == tmp_path / "rows.parquet"
    assert parquet.ParquetFile(path).num_row_groups == 2
    # through JSON, as lists are no tuples
    assert [
        Row.model_validate_json(json.dumps(r)) for r in parquet.read_table(path).to_pylist()
    ] == (rows)


def test_the_columns_do_not_depend_on_the_rows(tmp_path):
    # the first rows of real runs have no judge: inferred from them the column would be null
    write_jsonl(tmp_path / "plain.jsonl", [row(1)])
    write_jsonl(tmp_path / "none.jsonl", [])
    for name in ("plain", "none"):
        path = write_parquet(tmp_path / f"{name}.jsonl", Row)
        assert parquet.read_schema(path) == arrow_schema(Row)


def test_a_row_that_is_no_record_leaves_no_parquet_behind(tmp_path, rows):
    file = tmp_path / "rows.jsonl"
    file.write_text(file.read_text() + '{"number": 4}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:4"):
        write_parquet(file, Row)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


class Hub:
    """As much of the hub as a push of small files meets."""

    def __init__(self, server: HTTPServer) -> None:
        self.created: list[dict] = []
        self.commits: list[list[dict]] = []
        self.tokens: set[str | None] = set()
        self.url = server.url_for("").rstrip("/")
        where = "/api/datasets/me/pairs"
        server.expect_request("/api/repos/create").respond_with_handler(self.create)
        server.expect_request("/api/validate-yaml").respond_with_json(
            {"warnings": [], "errors": []}
        )
        server.expect_request(f"{where}/preupload/main").respond_with_handler(self.modes)
        server.expect_request(f"{where}/commit/main").respond_with_handler(self.commit)

    def create(self, request: Request) -> Response:
        self.created.append(request.json)
        self.tokens.add(request.headers.get("authorization"))
        return _json({"url": f"{self.url}/datasets/me/pairs"})

    def modes(self, request: Request) -> Response:
        mode = {"uploadMode": "regular", "shouldIgnore": False}
        return _json({"files": [{"path": f["path"], **mode} for f in request.json["files"]]})

    def commit(self, request: Request) -> Response:
        self.commits.append([json.loads(line) for line in request.data.splitlines()])
        where = f"{self.url}/datasets/me/pairs/commit/abc"
        return _json({"commitUrl": where, "commitOid": "abc"})

    def files(self) -> dict[str, bytes]:
        values = [line["value"] for line in self.commits[0] if line["key"] == "file"]
        return {value["path"]: base64.b64decode(value["content"]) for value in values}


def _json(value: object) -> Response:
    return Response(json.dumps(value), content_type="application/json")


@pytest.fixture
def hub(httpserver, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return Hub(httpserver)


def test_a_push_puts_every_file_into_one_commit_of_a_private_data_set(tmp_path, rows, hub):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\nA card.\n")
    data = write_parquet(tmp_path / "rows.jsonl", Row)
    api = HfApi(endpoint=hub.url, token="hf_secret")
    url = push_to_hub({"README.md": card, "data/train.parquet": data}, "me/pairs", api=api)
    assert url == f"{hub.url}/datasets/me/pairs/commit/abc"
    assert [(made["type"], made["visibility"]) for made in hub.created] == [("dataset", "private")]
    assert hub.tokens == {"Bearer hf_secret"}
    assert len(hub.commits) == 1
    assert hub.files() == {"README.md": card.read_bytes(), "data/train.parquet": data.read_bytes()}


def test_a_push_that_is_refused_is_one_sentence_without_the_token(tmp_path, rows, httpserver, hub):
    httpserver.clear()
    httpserver.expect_request("/api/repos/create").respond_with_data("no", status=401)
    api = HfApi(endpoint=hub.url, token="hf_secret")
    with pytest.raises(RunError, match=r"me/pairs: could not be pushed .*hf auth login") as caught:
        push_to_hub({"rows.jsonl": tmp_path / "rows.jsonl"}, "me/pairs", api=api)
    assert "hf_secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_push_without_a_network_is_one_sentence(tmp_path, rows):
    api = HfApi(endpoint="http://127.0.0.1:9")
    with pytest.raises(RunError, match="could not be pushed to the hub"):
        push_to_hub({"rows.jsonl": tmp_path / "rows.jsonl"}, "me/pairs", api=api)
