"""Reads configurations: YAML files, dotted command-line overrides, hints on unknown keys.

Generation configs are `Config` models; training configs are TRL's dataclasses and only borrow
`read_yaml` and `unknown_key`.
"""

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from rapidfuzz.distance import OSA

from clair_apo.errors import ConfigError
from clair_apo.files import first_fault

UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path as a person writes it: `~` is the home folder, in a YAML file as well."""


class Section(BaseModel):
    """A nested part of a config: frozen, unknown keys forbidden."""

    # the docstring under a field is its description in --help and in the JSON Schema
    model_config = {"extra": "forbid", "frozen": True, "use_attribute_docstrings": True}


class Config(BaseSettings):
    """A config as a whole: built in Python, or from a YAML file and the command line."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        cli_prog_name="clair-apo generate",
        cli_exit_on_error=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, values: Any) -> Any:
        if fault := unwritable(values):
            raise ValueError(fault)
        return values

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what was written down counts: the environment changes no config."""
        return (init_settings,)

    @classmethod
    def from_command_line(
        cls, args: Sequence[str], default: Mapping[str, Any] | None = None
    ) -> Self:
        """Read `--config FILE.yaml` and overrides such as `--reviser.model NAME`.

        Args:
            args: the arguments after the command's name.
            default: the values to start from where `--config` is not given.

        Raises:
            ConfigError: unreadable file, unknown key (with the nearest one), wrong value.
        """
        path, overrides = split_config_option(args)
        values = read_yaml(path) if path else dict(default or {})
        where = str(path) if path else "the config"
        _check_keys(where, _leaves(values, known := dotted_keys(cls, values=values)), known)
        overridden = option_names(overrides)
        values, overrides = _with_inner_values(values, overrides, _containers(cls))
        known = dotted_keys(cls, values=values)
        _check_keys("command line", overridden, known | {"help"})
        try:
            return cls(_cli_parse_args=_with_true(overrides, _switches(cls)), **values)
        except SettingsError as error:
            reason = str(error).removeprefix("error parsing CLI: ")
            raise ConfigError(f"command line: {reason}") from None
        except ValidationError as error:
            fault = first_fault(error, known).removeprefix("the line: ")
            on_line = fault.split(": ")[0] in overridden
            raise ConfigError(f"{'command line' if on_line else where}: {fault}") from None

    def to_yaml(self) -> str:
        """The config with every default filled in, as YAML that can be run again as it is."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    if fault := unwritable(content):
        raise ConfigError(f"{path}: {fault}")
    return content


def read_text(path: Path) -> str:
    """Read a text file that a config names.

    Raises:
        ConfigError: it is missing, or no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None


def unwritable(value: Any, key: str = "") -> str:
    """The fault of the first text in a value that no file can hold; empty where all are sound.

    Names of files may hold bytes that are no UTF-8, and YAML can spell halves of characters.

    Args:
        value: texts, at any depth of mappings and sequences.
        key: where the value stands.
    """
    if isinstance(value, str | Path):
        fault = _fault_of(str(value))
        return f"{key}: {fault}" if key and fault else fault
    inside: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        inside = ((f"{key}.{name}" if key else str(name), inner) for name, inner in value.items())
    elif isinstance(value, list | tuple):
        inside = ((key, inner) for inner in value)
    return next((fault for where, inner in inside if (fault := unwritable(inner, where))), "")


def _fault_of(text: str) -> str:
    if "\0" in text:
        return f"{text!r} holds a NUL character; take it out"
    if text.encode(errors="replace").decode() == text:
        return ""
    if sys.getfilesystemencoding() == "utf-8":
        return f"{text!r} holds bytes that are no UTF-8 text; rename what it names"
    return f"{text!r} is no text in this locale; set PYTHONUTF8=1"


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence about an unknown key, which names the nearest known one."""
    # two letters that changed places are one mistake; what is as near and as long comes first
    nearest = min(
        known, key=lambda k: (OSA.distance(key, k), abs(len(key) - len(k)), k), default=""
    )
    return f"unknown key {key!r}" + (f"; did you mean {nearest!r}?" if nearest else "")


def split_config_option(args: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` (or `--config=FILE`) out of the arguments.

    Raises:
        ConfigError: `--config` without a file.
    """
    path, rest = None, []
    waiting = iter(args)
    for arg in waiting:
        if arg == "--config":
            value = next(waiting, None)
            if value is None:
                raise ConfigError("--config needs a YAML file")
            path = Path(value)
        elif arg.startswith("--config="):
            path = Path(arg.removeprefix("--config="))
        else:
            rest.append(arg)
    return path, rest


def option_names(args: Sequence[str]) -> list[str]:
    """The keys that the arguments set: `--a.b 1` and `--a.b=1` give `a.b`."""
    return [a[2:].split("=", 1)[0] for a in args if a.startswith("--")]


def dotted_keys(model: type[BaseModel], prefix: str = "", values: Any = None) -> set[str]:
    """Every key of a config model, nested ones joined with dots.

    Args:
        model: the config, or a section of it.
        prefix: stands before every key.
        values: of a config; with them also the keys inside its lists and mappings of sections,
            such as `suites.0.name`.
    """
    keys = set()
    given = values if isinstance(values, Mapping) else {}
    for name, info in model.model_fields.items():
        keys.add(prefix + name)
        for section in _sections(info.annotation):
            keys |= dotted_keys(section, f"{prefix}{name}.", given.get(name))
        choices = list(_item_sections(info.annotation))
        for item, value in _items(given.get(name)) if choices else ():
            keys.add(f"{prefix}{name}.{item}")
            for section in _fitting(choices, value):
                keys |= dotted_keys(section, f"{prefix}{name}.{item}.", value)
    return keys


def _check_keys(where: str, keys: Iterable[str], known: set[str]) -> None:
    for key in keys:
        if key not in known:
            raise ConfigError(f"{where}: {unknown_key(key, known)}")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that may stand at a key: a model, or one or None, or one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType):
        for part in get_args(annotation):
            yield from _sections(part)


def _item_sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that may stand in a list or mapping; none for one of plain values."""
    if get_origin(annotation) in (tuple, list, dict):
        for part in get_args(annotation):
            yield from _sections(part)


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) else ()


def _fitting(sections: Sequence[type[BaseModel]], value: Any) -> Sequence[type[BaseModel]]:
    """The sections that a value may be, by the words that tell sections apart; else all."""

    def fits(section: type[BaseModel]) -> bool:
        fields = section.model_fields.items()
        words = {
            n: get_args(f.annotation) for n, f in fields if get_origin(f.annotation) is Literal
        }
        return all(value.get(n, w[0]) == w[0] for n, w in words.items() if len(w) == 1)

    return [s for s in sections if isinstance(value, Mapping) and fits(s)] or sections


def _containers(model: type[BaseModel]) -> set[str]:
    """The keys of a config that are lists or mappings of sections."""
    fields = model.model_fields.items()
    return {name for name, info in fields if any(_item_sections(info.annotation))}


def _with_inner_values(
    values: dict[str, Any], args: Sequence[str], containers: set[str]
) -> tuple[dict[str, Any], list[str]]:
    """The values with those of options inside lists and mappings; the other arguments.

    `--models.trained.dtype bf16` and `--suites.0.name mine` are read as YAML.
    """
    values, rest = copy.deepcopy(values), []
    waiting = iter(args)
    for arg in waiting:
        key, equals, text = arg.removeprefix("--").partition("=")
        first, *inner = key.split(".")
        if not (arg.startswith("--") and inner and first in containers):
            rest.append(arg)
            continue
        if not equals:
            text = next(waiting, "true")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        _put(values, [first, *inner], value)
    return values, rest


def _put(values: Any, path: Sequence[str], value: Any) -> None:
    """Put a value where its keys lead, as far as they lead anywhere."""
    for number, part in enumerate(path):
        place: Any = int(part) if isinstance(values, list) and part.isdecimal() else part
        with suppress(IndexError, TypeError):  # what is no place is an unknown key
            if number == len(path) - 1:
                values[place] = value
                return
            values = values.setdefault(place, {}) if isinstance(values, dict) else values[place]


def _switches(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Every key of a config model that is true or false."""
    keys = set()
    for name, info in model.model_fields.items():
        for part in get_args(info.annotation) or (info.annotation,):
            if part is bool:
                keys.add(prefix + name)
            elif isinstance(part, type) and issubclass(part, BaseModel):
                keys |= _switches(part, f"{prefix}{name}.")
    return keys


def _with_true(args: Sequence[str], switches: set[str]) -> list[str]:
    """The arguments with the value that `--offline` alone leaves out."""
    spelled = []
    for arg, following in zip_longest(args, args[1:], fillvalue="--"):
        spelled.append(arg)
        if arg.startswith("--") and arg[2:] in switches and following.startswith("--"):
            spelled.append("true")
    return spelled


def _leaves(values: Any, known: set[str], prefix: str = "") -> Iterable[str]:
    """The keys of a file, without those inside a value that is a mapping of the user's own."""
    for key, value in _items(values):
        yield f"{prefix}{key}"
        if any(name.startswith(f"{prefix}{key}.") for name in known):
            yield from _leaves(value, known, f"{prefix}{key}.")
