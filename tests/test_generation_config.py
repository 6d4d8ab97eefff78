"""Reading configs: unknown keys named kindly, the command line over the file."""

import json
from pathlib import Path

import pytest
import yaml

from clair_apo.clair import GenerateConfig
from clair_apo.config import dotted_keys, read_yaml, split_config_option, unknown_key
from clair_apo.errors import ConfigError

MINIMAL = {
    "run_dir": "runs/x",
    "prompts": {"path": "p.jsonl"},
    "target": {"model": "t"},
    "reviser": {"model": "r"},
}


@pytest.fixture
def file(tmp_path):
    return _write(tmp_path, MINIMAL | {"prompts": {"path": "p.jsonl", "limit": 3}})


def _write(folder, values):
    path = folder / "c.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def read(*args):
    return GenerateConfig.from_command_line([str(arg) for arg in args])


UNKNOWN = {
    "rundir": "run_dir",
    "prompts.colum": "prompts.column",
    "target.temprature": "target.temperature",
    "reviser.max_token": "reviser.max_tokens",
    "revision.rubrik": "revision.rubric",
    "reviser.base-url": "reviser.base_url",
}


@pytest.mark.parametrize("key", UNKNOWN)
def test_an_unknown_key_is_answered_with_the_nearest_one(tmp_path, file, key):
    wanted = rf"unknown key '{key}'; did you mean '{UNKNOWN[key]}'\?"
    for args in ([f"--{key}", "x"], [f"--{key}=x"]):
        with pytest.raises(ConfigError, match=rf"^command line: {wanted}"):
            read("--config", file, *args)
    section, _, name = key.rpartition(".")
    values = (
        {**MINIMAL, section: MINIMAL.get(section, {}) | {name: "x"}}
        if section
        else {
            **MINIMAL,
            name: "x",
        }
    )
    with pytest.raises(ConfigError, match=rf"c\.yaml: {wanted}"):
        read("--config", _write(tmp_path, values))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("prompts.limit", "many", "valid integer"),
        ("target.temperature", "-1", "greater than or equal to 0"),
        ("reviser.dtype", "fp8", "'fp32' or 'bf16'"),
        ("revision.format", "diff", "'full', 'edits' or 'segments'"),
        ("recipe", "magic", "'clair'"),
        ("reviser.base_url", "localhost:8000", "expected an address such as http"),
        ("target.model", "null", "valid string"),
    ],
)
def test_a_wrong_value_is_named_by_its_key_and_its_place(tmp_path, file, key, value, reason):
    with pytest.raises(ConfigError, match=rf"^command line: {key}: .*{reason}"):
        read("--config", file, f"--{key}={value}")
    section, _, name = key.rpartition(".")
    value = None if value == "null" else value
    inner = {name: value}
    values = MINIMAL | ({section: MINIMAL.get(section, {}) | inner} if section else inner)
    with pytest.raises(ConfigError, match=rf"c\.yaml: {key}: .*{reason}"):
        read("--config", _write(tmp_path, values))


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("base_url", "https://me:sk-123@host/v1"),
        ("base_url", "https://host/v1?key=sk-123"),
        ("base_url", "me:sk-123@host/v1"),
        ("api_key_env", "sk-123"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(file, key, secret):
    with pytest.raises(ConfigError, match=rf"command line: target\.{key}: ") as caught:
        read("--config", file, f"--target.{key}", secret)
    assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize("left_out", ["run_dir", "prompts", "target"])
def test_a_key_that_is_needed_and_missing_is_named(tmp_path, left_out):
    values = {key: value for key, value in MINIMAL.items() if key != left_out}
    with pytest.raises(ConfigError, match=rf"c\.yaml: {left_out}: Field required"):
        read("--config", _write(tmp_path, values))


@pytest.mark.parametrize("args", [["extra"], ["--run_dir"], ["-x"], ["--prompts.seed", "1", "2"]])
def test_arguments_that_cannot_be_read_are_one_line_without_a_usage(file, args, capsys):
    with pytest.raises(ConfigError, match=r"^command line: ") as caught:
        read("--config", file, *args)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_the_command_line_wins_over_the_file_and_leaves_the_rest(file):
    config = read("--config", file, "--prompts.path", "q.jsonl", "--reviser.max_tokens=7")
    assert config.prompts.path == "q.jsonl"
    assert config.prompts.limit == 3
    assert config.reviser.max_tokens == 7
    assert config.reviser.model == "r"


@pytest.mark.parametrize(
    ("args", "key", "value"),
    [
        (["--prompts.limit", "null"], "prompts.limit", None),
        (["--store", "null"], "store", None),
        (["--store", "a b/s.sqlite"], "store", Path("a b/s.sqlite")),
        (["--prompts.column", "1"], "prompts.column", "1"),
        (["--prompts.column", "true"], "prompts.column", "true"),
        (["--target.temperature", "0"], "target.temperature", 0.0),
        (["--target.top_p", "5e-1"], "target.top_p", 0.5),
        (["--target.temperature", "null"], "target.temperature", None),
        (["--reviser.base_url", "http://h:1/v1"], "reviser.base_url", "http://h:1/v1"),
        (["--reviser.model", "recorded:x"], "reviser.model", "recorded:x"),
        (["--reviser", '{"model": "j"}'], "reviser.model", "j"),
        (["--run_dir", "a", "--run_dir", "b"], "run_dir", Path("b")),
    ],
)
def test_values_on_the_command_line_take_their_fields_kind(file, args, key, value):
    found = read("--config", file, *args)
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)


@pytest.mark.parametrize("on_the_line", [True, False])
def test_what_a_server_takes_beside_is_a_mapping_of_any_keys(tmp_path, file, on_the_line):
    extra = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}
    reviser = {"model": "r", "base_url": "http://h/v1"}
    if on_the_line:
        server = ["--reviser.base_url", "http://h/v1"]
        config = read("--config", file, *server, "--reviser.extra_body", json.dumps(extra))
    else:
        values = MINIMAL | {"reviser": reviser | {"extra_body": extra}}
        config = read("--config", _write(tmp_path, values))
    assert config.reviser.extra_body == extra
    assert read("--config", _write(tmp_path, config.to_yaml())) == config


def test_a_path_may_begin_with_the_home_folder(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = read("--config", file, "--run_dir=~/runs/a", "--revision.rubric=~/r.md")
    assert config.run_dir == tmp_path / "runs" / "a"
    assert config.revision.rubric == tmp_path / "r.md"
    assert config.store_path == tmp_path / "runs" / "requests.sqlite"


def test_the_environment_changes_no_config(file, monkeypatch, tmp_path):
    plain = read("--config", file)
    for key in dotted_keys(GenerateConfig):
        for name in (key, key.upper(), key.replace(".", "__").upper(), key.replace(".", "_")):
            monkeypatch.setenv(name, "9")
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("RUN_DIR=other\n")
    assert read("--config", file) == plain
    assert GenerateConfig(**MINIMAL) == read("--config", file, "--prompts.limit", "null")


def test_the_arguments_of_this_very_process_change_no_config(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest", "--run_dir", "other"])
    assert GenerateConfig(**MINIMAL).run_dir == Path("runs/x")
    assert GenerateConfig.from_command_line([], MINIMAL).run_dir == Path("runs/x")


OTHER_VALUES = {
    "run_dir": "~/there: it's",
    "recipe": "clair",
    "store": "s t.sqlite",
    "prompts": {"path": "null", "column": "yes", "split": "1", "limit": 1, "seed": 9},
    "target": {"model": "ünï", "temperature": 0.1, "top_p": 0.3, "max_tokens": 9},
    "reviser": {"model": "r", "base_url": "http://h/v1", "timeout_s": 1e-3, "dtype": "bf16"},
    "revision": {"format": "full", "rubric": "r.md", "template": None},
}


@pytest.mark.parametrize("values", [MINIMAL, OTHER_VALUES])
def test_a_config_written_as_yaml_reads_as_the_same_config(tmp_path, values):
    config = GenerateConfig(**values)
    assert read("--config", _write(tmp_path, config.to_yaml())) == config
    written = set(_dotted(yaml.safe_load(config.to_yaml())))
    unset = {key for key in written if _value_at(config, key) is None}
    below_unset = {
        key
        for key in dotted_keys(GenerateConfig)
        if any(key.startswith(f"{section}.") for section in unset)
    }
    assert written == dotted_keys(GenerateConfig) - below_unset


def _dotted(values, prefix=""):
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


def _value_at(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "expected keys and values, found NoneType"),
        ("- a\n", "expected keys and values, found list"),
        ("a: [1\n", "not YAML"),
        ("run_dir: !!python/object/apply:os.system ['true']\n", "not YAML"),
        ("on: 1\n", "unknown key 'True'"),
        ("run_dir: r\nprompts: p.jsonl\n", "prompts: Input should be"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, content, reason):
    with pytest.raises(ConfigError, match=rf"c\.yaml: .*{reason}") as caught:
        read("--config", _write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read \(No such file"):
        read_yaml(tmp_path / "gone.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"b\.yaml: not YAML"):
        read_yaml(tmp_path / "b.yaml")


def test_the_config_option_is_taken_wherever_it_stands():
    rest = ["--a", "1", "--b=2"]
    for args in (
        ["--config", "f.yaml", *rest],
        ["--config=f.yaml", *rest],
        [*rest, "--config", "f.yaml"],
    ):
        assert split_config_option(args) == (Path("f.yaml"), rest)
    assert split_config_option(rest) == (None, rest)
    with pytest.raises(ConfigError, match="--config needs a YAML file"):
        split_config_option([*rest, "--config"])


def test_an_unknown_key_among_no_known_ones_has_no_nearest():
    assert unknown_key("x", []) == "unknown key 'x'"


def test_a_config_cannot_be_changed_after_it_was_checked():
    config = GenerateConfig(**MINIMAL)
    for section, name in ((config, "run_dir"), (config.target, "model")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(section, name, "other")


@pytest.mark.parametrize("spelling", [["--offline"], ["--offline", "true"], ["--offline=true"]])
@pytest.mark.parametrize("before", [True, False])
def test_a_switch_needs_no_value(spelling, before):
    others = ["--run_dir", "r", "--prompts.path", "p", "--target.model", "t"]
    others += ["--reviser.model", "m"]
    args = spelling + others if before else others + spelling
    assert GenerateConfig.from_command_line(args).offline
    assert not GenerateConfig.from_command_line(others).offline
    off = [*others, "--offline", "false"]
    assert not GenerateConfig.from_command_line(off).offline


@pytest.mark.parametrize("key", ["run_dir", "target.model", "target.api_key_env", "prompts.path"])
def test_a_value_that_no_file_can_hold_is_refused_by_its_key(key):
    values = {"run_dir": "r", "prompts.path": "p", "target.model": "t", "reviser.model": "v"}
    args = [
        word for name, value in (values | {key: "a\udcff"}).items() for word in (f"--{name}", value)
    ]
    with pytest.raises(ConfigError, match=key) as caught:
        GenerateConfig.from_command_line(args)
    str(caught.value).encode()
