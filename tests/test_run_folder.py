"""The run folder and its manifest."""

import json
import subprocess

import pytest

from clair_apo.errors import RunError
from clair_apo.run_folder import RunFolder, file_digest, git_revision, package_versions, write_json


def test_a_run_folder_is_made_by_its_first_file_not_before(tmp_path):
    folder = RunFolder(tmp_path / "a" / "run")
    assert folder.manifest() == {}
    assert not folder.path.exists()
    folder.update_manifest(command="generate")
    assert folder.manifest()["command"] == "generate"


def test_entries_are_added_and_replaced_and_the_versions_noted(tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    folder.update_manifest(a=1, b={"x": 1})
    folder.update_manifest(b={"y": 2}, c=[3])
    manifest = folder.manifest()
    assert (manifest["a"], manifest["b"], manifest["c"]) == (1, {"y": 2}, [3])
    assert manifest["packages"]["clair-apo"] == package_versions()["clair-apo"]
    assert {"torch", "trl"} <= set(manifest["packages"])


def test_stages_are_added_in_order_and_replaced_one_by_one(tmp_path):
    folder = RunFolder(tmp_path)
    for name, kept in (("load", 1), ("respond", 2), ("load", 3)):
        folder.record_stage(name, {"kept": kept})
    assert folder.manifest()["stages"] == {"load": {"kept": 3}, "respond": {"kept": 2}}
    folder.update_manifest(other=1)
    assert len(folder.manifest()["stages"]) == 2


@pytest.mark.parametrize("content", [b"{", b"[1]", b"3", b"\xff\xfe", b""])
def test_a_damaged_manifest_is_an_error_that_names_it_and_leaves_it(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    folder = RunFolder(tmp_path)
    for act in (folder.manifest, lambda: folder.record_stage("load", {})):
        with pytest.raises(RunError, match=r"manifest\.json: .*use another run folder"):
            act()
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_known_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="no run folder can be written there"):
            RunFolder(path).prepare()
        assert RunFolder(path).manifest() == {}
    RunFolder(tmp_path / "new").prepare()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_process_left_half_written_goes_but_not_that_of_another_run(tmp_path):
    for folder in ("", "dataset", "1-of-2"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / ".pairs.jsonl.0.part").write_text("half")
    with RunFolder(tmp_path / "1-of-2").locked():
        (tmp_path / "1-of-2" / ".pairs.jsonl.1.part").write_text("being written")
        with RunFolder(tmp_path).locked():
            left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.part")]
    assert [str(path) for path in left] == ["1-of-2/.pairs.jsonl.1.part"]


def test_json_is_written_readable_and_whole(tmp_path):
    write_json(tmp_path / "x.json", {"ü": [1, None]})
    assert (tmp_path / "x.json").read_text("utf-8") == '{\n  "ü": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"ü": [1, None]}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_files_digest_is_its_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    # the example of FIPS 180-2, appendix B.1
    assert file_digest(tmp_path / "f") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_git_revision_is_the_commit_or_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision.__wrapped__() is None
    git = ["git", "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert git_revision.__wrapped__() is None, "no commit yet"
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "m"], check=True)
    assert len(git_revision.__wrapped__()) == 40
    monkeypatch.setenv("PATH", "")
    assert git_revision.__wrapped__() is None, "no git at all"
