"""Which model to ask, where, how and at what price; the key comes from the environment alone.

Loads no HTTP client.
"""

import datetime
import os
import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from clair_apo.config import Section
from clair_apo.errors import RequestError
from clair_apo.records import (
    Sampling,
    TokenLimitField,
    canonical_json,
)

RECORDED = "recorded:"
"""A model name with this beginning stands for recorded answers: it is never asked."""
GO_ON = "what was answered is kept: run the same command again to go on"
"""The end of a sentence with which a run ends."""

MILLION = 1_000_000
# what `extra_body` may not hold: settings with a place of their own, or that part an answer
_NOT_EXTRA = {
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("n", "stream"),
}
# options of `vllm serve` that the run sets itself, and what to do instead
_OWN_OPTIONS = {
    **dict.fromkeys(
        ("--host", "--port", "--uds", "--served-model-name", "--model"), "the run chooses it"
    ),
    "--dtype": "set dtype: bf16 or fp32",
    "--generation-config": "set the sampling settings of the section, or extra_body",
    "--config": "write its options into serve_args",
}
# options that decide how fast the server is and how much it holds, and no answer
_NEUTRAL = {
    *("--max-model-len", "--max-num-seqs", "--max-num-batched-tokens", "--enforce-eager"),
    *("--gpu-memory-utilization", "--kv-cache-memory-bytes", "--block-size", "--swap-space"),
    *("--enable-prefix-caching", "--no-enable-prefix-caching", "--enable-chunked-prefill"),
    *("--tensor-parallel-size", "--data-parallel-size", "--pipeline-parallel-size"),
    *("--disable-log-requests", "--disable-log-stats", "--disable-uvicorn-access-log"),
    *("--uvicorn-log-level", "--download-dir", "--api-server-count"),
}
_SECRET = re.compile(
    r"(?i)(api|access|auth|private)[-_]?(key|token)|secret|passw|credential|authorization|bearer|cookie"
    r"|^(key|token)$"
)

Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""An amount of US dollars."""


class Price(Section):
    """USD per million tokens; the key `price` of a model in a config, or a row of the table."""

    input: Usd
    """A million prompt tokens, live."""
    output: Usd
    """A million completion tokens, live."""
    batch_input: Usd | None = None
    """A million prompt tokens through the Batch API; none: not offered, or not known."""
    batch_output: Usd | None = None
    """A million completion tokens through the Batch API."""
    source: str = "the config"
    """Where the figures were read: an address, a contract."""
    date: datetime.date | None = None
    """When they were read."""

    @model_validator(mode="after")
    def _batch_has_both(self) -> Self:
        if (self.batch_input is None) != (self.batch_output is None):
            raise ValueError("batch_input and batch_output belong together; give both or none")
        return self

    def cost(
        self, *, prompt_tokens: float, completion_tokens: float, batch: bool = False
    ) -> float | None:
        """The cost of so many tokens in USD; None where there is no batch price."""
        rates = (self.batch_input, self.batch_output) if batch else (self.input, self.output)
        if rates[0] is None or rates[1] is None:
            return None
        return (prompt_tokens * rates[0] + completion_tokens * rates[1]) / MILLION

    def __str__(self) -> str:
        text = f"${self.input:g} in, ${self.output:g} out per million tokens"
        if self.batch_input is not None:
            text += f"; batch ${self.batch_input:g} in, ${self.batch_output:g} out"
        return f"{text} ({self.source}{f', read {self.date}' if self.date else ''})"


class ModelSpec(Section):
    """Which model to ask, where, and how; a section of a generation config."""

    model: str
    """`smollm2-135m`, a folder or a hub name; with `base_url`, the name that the server knows."""
    revision: str | None = Field(None, min_length=1)
    """Which weights: of a hub name the commit or tag that is loaded; of a server, which tells only
    a name, any word of yours that changes when they do. Answers of another are not reused."""
    base_url: str | None = None
    """An OpenAI-compatible server, such as `http://127.0.0.1:8000/v1`; none: in this process."""
    serve: Literal["vllm"] | None = None
    """`vllm`: the run starts `vllm serve` for the folder that `model` names, and stops it at the
    end; none: the model runs in this process."""
    serve_args: tuple[str, ...] = ()
    """More arguments of `vllm serve`, such as `--max-model-len=4096`, each with its value."""
    mode: Literal["live", "batch", "files"] = "live"
    """`live`: one request at a time; `batch`: the server's Batch API, cheaper, within a day;
    `files`: files that `vllm run-batch` answers between two runs."""
    api_key_env: str = Field("OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable with the server's key; servers on this machine need none."""
    max_tokens: int = Field(512, gt=0)
    """Longest answer, in tokens; with a model that thinks first, its thinking included."""
    token_limit_field: TokenLimitField = "max_tokens"
    """The name under which the server takes `max_tokens`; OpenAI's models from gpt-5 on know
    `max_completion_tokens` only."""
    temperature: float | None = Field(0.7, ge=0, allow_inf_nan=False)
    """0 takes the likeliest token always; null is not sent, for servers that take no choice
    (in this process it is 1)."""
    top_p: float | None = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens that hold this share of the probability; null is not
    sent."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """What the server takes beside, such as `{reasoning_effort: low}`; part of every request and
    its key, and written into the manifest: no place for a secret."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds to wait for one answer of a server, per attempt."""
    patience_s: float = Field(3600.0, ge=0, allow_inf_nan=False)
    """Seconds that a server may keep the run waiting while it answers nothing because it is busy,
    limits the rate or still loads its model; one that asks for longer ends the run with the time
    at which to come again. One that cannot be reached is waited for 5 minutes at most, and 10
    seconds where it never answered."""
    max_in_flight: int = Field(256, gt=0)
    """The most requests to a server at the same time; how many it bears is learned on the way."""
    requests_per_minute: int | None = Field(None, gt=0)
    """A limit of the server's, where it has one."""
    tokens_per_minute: int | None = Field(None, gt=0)
    """The same for tokens, those of prompts and answers together."""
    price: Price | None = None
    """USD per million tokens; by default what the shipped table says of this model and server."""
    batch_size: int = Field(32, gt=0)
    """Requests per batch of a model in this process."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of a model in this process, or of the one that is served."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if fault := _address_fault(url):
            raise ValueError(f"{url!r} is no address ({fault})")
        parts = urlsplit(url)
        if "@" in url or parts.query:  # it stands in configs, manifests and messages
            raise ValueError(
                "expected an address without user, password and query; a key goes into the "
                "environment variable that api_key_env names"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected an address such as http://127.0.0.1:8000/v1, got {url!r}")
        return url

    @field_validator("extra_body")
    @classmethod
    def _is_public_and_new(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in extra:
            if name in _NOT_EXTRA:
                raise ValueError(f"{name!r} cannot be sent beside: it has a setting, or one value")
        for name in _names(extra):
            if _SECRET.search(name):
                raise ValueError(
                    f"{name!r} looks like a secret, and this is written into the manifest; the "
                    "server's key goes into the environment variable that api_key_env names"
                )
        return extra

    @model_validator(mode="after")
    def _is_sent_to_a_server(self) -> Self:
        local = self.base_url is None and self.mode != "files" and not self.serve
        fields = type(self).model_fields
        for name in ("token_limit_field", "extra_body"):
            if local and getattr(self, name) != fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} is for a server: set base_url, or leave {name} out")
        return self

    @field_validator("serve_args")
    @classmethod
    def _are_vllm_options(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        for arg in args:
            name = _option(arg)
            if not name.startswith("--") or len(arg.split("=")[0].split()) != 1:
                raise ValueError(f"{arg!r}: expected an option such as --max-model-len=4096")
            if name in _OWN_OPTIONS:
                raise ValueError(f"{arg!r}: {_OWN_OPTIONS[name]}")
            if _SECRET.search(name.removeprefix("--")):
                raise ValueError(f"{name!r} takes a secret, and this is written into the manifest")
        return args

    @model_validator(mode="after")
    def _is_served_or_asked(self) -> Self:
        if self.serve and self.base_url is not None:
            raise ValueError("serve starts a server, and base_url names one: set one of the two")
        if self.serve and self.mode != "live":
            raise ValueError(f"serve is for mode 'live', not {self.mode!r}: take one of them out")
        if self.serve_args and not self.serve:
            raise ValueError("serve_args are for a server that is started: set serve to vllm")
        return self

    @model_validator(mode="after")
    def _has_a_batch_server(self) -> Self:
        if self.mode == "batch" and self.base_url is None:
            raise ValueError("mode 'batch' needs a server: set base_url")
        return self

    gives_scores: ClassVar[bool] = False
    """Whether the model is a reward model: its answer to a conversation is a number."""

    @property
    def served_identity(self) -> str:
        """The name in request keys of a model that is not loaded here."""
        name = self.model if self.revision is None else f"{self.model}@{self.revision}"
        return f"{name}/score" if self.gives_scores else name

    @property
    def served_differently(self) -> tuple[str, ...]:
        """Those of `serve_args` that may change answers, sorted; all but those of `_NEUTRAL`."""
        return tuple(sorted(arg for arg in self.serve_args if _option(arg) not in _NEUTRAL))

    @property
    def sampling(self) -> Sampling:
        """The settings of the spec that belong to a request's key."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            token_limit_field=self.token_limit_field,
            extra_body=canonical_json(self.extra_body) if self.extra_body else "",
        )


class RewardSpec(ModelSpec):
    """A reward model: it gives a conversation a score, higher is better.

    In this process it is a sequence classifier with one label and a chat template; at a server it
    is asked at vLLM's `/classify`.
    """

    gives_scores: ClassVar[bool] = True

    @model_validator(mode="after")
    def _samples_nothing(self) -> Self:
        fields = type(self).model_fields
        for name in _OF_ANSWERS:
            if getattr(self, name) != fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} is for a model that writes: leave it out")
        return self

    @property
    def sampling(self) -> Sampling:
        """The same for every reward model: nothing is drawn."""
        return Sampling(max_tokens=1, temperature=0.0, top_p=1.0)


_OF_ANSWERS = (*("mode", "max_tokens", "token_limit_field", "temperature", "top_p", "extra_body"),)


def _address_fault(url: str) -> str:
    """What keeps a text from being an address of any kind; empty where nothing does."""
    if not url.isprintable() or any(c.isspace() for c in url):
        return "it holds blanks, line ends or bytes that are no text"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is what checks it
        host = parts.hostname or ""
        if "%" in host:
            return "an address with a zone or with escapes; name the host"
        if ":" not in host:
            host.encode("idna")
    except ValueError as error:
        return str(error)
    return ""


def _option(arg: str) -> str:
    """The name of an argument's option, as vLLM spells it."""
    return arg.partition("=")[0].replace("_", "-")


def _names(value: JsonValue) -> Iterator[str]:
    """Every name in a JSON value, at any depth."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _names(inner)


def host_of(spec: ModelSpec) -> str:
    """The server of a spec as it is named to people and in the store: host, and port if any."""
    url = urlsplit(spec.base_url or "")
    return f"{url.hostname}" + (f":{url.port}" if url.port else "")


def find_key(spec: ModelSpec) -> str | None:
    """The key for the server of a spec; None where it needs none.

    Raises:
        RequestError: it needs one and there is none, or what there is cannot be one.
    """
    key = os.environ.get(spec.api_key_env, "").strip()
    host = urlsplit(spec.base_url or "").hostname or ""
    if not key and not _on_this_machine(host):
        raise RequestError(
            f"no key for {host}: set the environment variable {spec.api_key_env}, or name another "
            "one with api_key_env"
        )
    if not (key.isascii() and key.isprintable()):
        raise RequestError(f"${spec.api_key_env} holds characters that no key has")
    return key or None


def _on_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
