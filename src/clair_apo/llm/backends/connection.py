"""The HTTP clients of a server: its key, its proxy, its certificates, the bounds of its replies."""

import os
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import httpx2
import openai

from clair_apo.errors import RequestError
from clair_apo.llm.backends.transport_errors import ReplyTooLargeError
from clair_apo.llm.proxies import Proxy, find_proxy
from clair_apo.llm.secrets import Mask
from clair_apo.llm.spec import find_key, host_of
from clair_apo.llm.types import ModelSpec

MOST_BYTES = 64 * 2**20
"""A reply of a chat completion that is larger is broken off."""
_ACCOUNT = {"organization": "OPENAI_ORG_ID", "project": "OPENAI_PROJECT_ID"}

C = TypeVar("C")


@dataclass(frozen=True)
class Connection:
    """How a server is reached.

    Attributes:
        spec: `base_url` must be set.
        key: for the server; None where it needs none.
        proxy: to ask through; None for none.
    """

    spec: ModelSpec
    key: str | None
    proxy: Proxy | None

    @classmethod
    def of(cls, spec: ModelSpec) -> "Connection":
        """How the server of a spec is reached, as the environment says.

        Raises:
            RequestError: there is no key for it, or the proxy cannot be used.
        """
        return cls(spec, find_key(spec), find_proxy(spec.base_url or ""))

    @property
    def where(self) -> str:
        """The server as it is named to people, and the proxy if there is one."""
        host = host_of(self.spec)
        if self.proxy is None:
            return host
        return f"{host} (through the proxy {self.proxy.shown} of ${self.proxy.variable})"

    @cached_property
    def mask(self) -> Mask:
        """Hides the key, and the proxy's password."""
        return Mask((self.key, *(self.proxy.passwords if self.proxy else ())))

    def many_at_once(self) -> openai.AsyncOpenAI:
        """A client that keeps a connection for each request in flight, and repeats nothing itself.

        Raises:
            RequestError: no client can be made of what the environment says.
        """
        most = self.spec.max_in_flight

        def make() -> openai.AsyncOpenAI:
            # with 256 connections this transport takes a quarter of the time of the client's own
            http_client = openai.DefaultAioHttpClient(
                limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
                # a short reply gains nothing by compression, and could unfold without end
                headers={"Accept-Encoding": "identity"},
                **self._transport(),
            )
            _bound_replies(http_client)
            # `HttpChat` has a time-out for the attempt as a whole
            return openai.AsyncOpenAI(**self._settings(), timeout=None, http_client=http_client)

        return self._made(make)

    def one_at_a_time(self, timeout_s: float) -> openai.OpenAI:
        """A client for the calls about batches and files.

        Raises:
            RequestError: no client can be made of what the environment says.
        """

        def make() -> openai.OpenAI:
            http_client = openai.DefaultHttpxClient(timeout=timeout_s, **self._transport())
            return openai.OpenAI(**self._settings(), timeout=timeout_s, http_client=http_client)

        return self._made(make)

    def _settings(self) -> dict[str, Any]:
        return {
            "base_url": self.spec.base_url,
            "api_key": self.key or "none",  # the client insists on a key; local servers ignore it
            "max_retries": 0,
        } | {
            name: _header(variable) for name, variable in _ACCOUNT.items() if variable in os.environ
        }

    def _transport(self) -> dict[str, Any]:
        # the environment was read above, and its variables can be named in what goes wrong
        proxy = self.proxy.url if self.proxy else None
        over_tls = any((url or "").startswith("https:") for url in (self.spec.base_url, proxy))
        verify = _certificates() if over_tls else True
        return {"proxy": proxy, "trust_env": False, "verify": verify}

    def _made(self, make: Callable[[], C]) -> C:
        try:
            return make()
        except RequestError:
            raise
        except Exception as error:  # of several libraries, about addresses and headers
            told = self.mask.text(f"{type(error).__name__}: {error}")
            raise RequestError(
                f"{self.where} cannot be asked ({' '.join(told.split())[:300]})"
            ) from None


def _header(variable: str) -> str:
    value = os.environ[variable].strip()
    if not (value.isascii() and value.isprintable()):
        raise RequestError(
            f"${variable} holds characters that no header can have: set it to the plain name, or "
            "unset it"
        )
    return value


def _certificates() -> ssl.SSLContext:
    """The authorities that are trusted: those of `SSL_CERT_FILE` or `SSL_CERT_DIR`, else the usual.

    Raises:
        RequestError: they cannot be read.
    """
    try:
        return httpx2.create_ssl_context(trust_env=True)
    except (OSError, ValueError) as error:
        named = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        whose = f"${named[0]} ({os.environ[named[0]]!r})" if named else "this machine"
        raise RequestError(
            f"the certificates of {whose} cannot be read ({getattr(error, 'strerror', error)}): "
            "name a file of certificates in PEM format, or unset the variable"
        ) from None


def _bound_replies(client: httpx2.AsyncClient) -> None:
    """Let a client break off replies of more than `MOST_BYTES`."""

    async def bound(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)

    client.event_hooks = {"request": [], "response": [bound]}


class _Bounded(httpx2.AsyncByteStream):
    """A reply of which no more than `MOST_BYTES` are read."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for chunk in self._stream:
            read += len(chunk)
            if read > MOST_BYTES:
                raise ReplyTooLargeError(f"a reply of more than {MOST_BYTES // 2**20} MB")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
