"""Makes the HTTP clients of a server: its key, its proxy, its certificates, the size of replies."""

import os
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies

import httpx2
import openai

from clair_apo.errors import RequestError
from clair_apo.llm.backends.transport_errors import ReplyTooLargeError
from clair_apo.llm.secrets import Mask
from clair_apo.llm.spec import ModelSpec, find_key, host_of

MOST_BYTES = 64 * 2**20
"""A larger reply of a chat completion is broken off."""
_PORTS = {"http": 80, "https": 443}
_ACCOUNT = {"organization": "OPENAI_ORG_ID", "project": "OPENAI_PROJECT_ID"}

C = TypeVar("C")


@dataclass(frozen=True)
class Proxy:
    """A proxy to ask a server through.

    Attributes:
        url: its address, with user and password if it has them.
        variable: the environment variable that names it.
    """

    url: str
    variable: str

    @property
    def shown(self) -> str:
        """Its address for people: without user and password."""
        return _shown(self.url)

    @property
    def passwords(self) -> tuple[str, ...]:
        """The password in both spellings, with and without percent escapes, to be masked."""
        password = urlsplit(self.url).password or ""
        return password, unquote(password)


def find_proxy(base_url: str) -> Proxy | None:
    """The proxy that the environment names for an address; None where there is none.

    Raises:
        RequestError: the proxy cannot be used.
    """
    server = urlsplit(base_url)
    named = getproxies()
    kind = next((kind for kind in (server.scheme, "all") if named.get(kind)), None)
    if kind is None or _is_excepted(server, named.get("no", "")):
        return None
    url = named[kind] if "://" in named[kind] else f"http://{named[kind]}"
    proxy = Proxy(url, _variable(kind))
    if fault := _fault(url):
        raise RequestError(
            f"the proxy {proxy.shown!r} of ${proxy.variable} cannot be used ({fault}): name one "
            f"that begins with http://, or list {server.hostname} in $no_proxy"
        )
    return proxy


def _variable(kind: str) -> str:
    """The environment variable that names the proxy of a kind; small letters come first."""
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), names[0])


def _fault(url: str) -> str:
    """Why an address cannot be a proxy's; empty where it can."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is what checks it
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        return str(error)
    if parts.scheme.lower() not in _PORTS:
        return f"proxies of the kind {parts.scheme!r} are not spoken here"
    if not parts.hostname or not url.isprintable() or any(c.isspace() for c in url):
        return "this is no address"
    return ""


def _shown(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}".encode("ascii", "backslashreplace").decode()


def _is_excepted(server: SplitResult, no_proxy: str) -> bool:
    host = (server.hostname or "").rstrip(".")
    port = server.port or _PORTS.get(server.scheme)
    entries = no_proxy.replace(",", " ").split()
    return any(_is_meant(entry, host, port) for entry in entries)


def _is_meant(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of `no_proxy` stands for a host; one that cannot be read stands for none."""
    entry = entry.lower().partition("://")[2] or entry.lower()
    address = _address(host)
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
    name, its_port = _parted(entry)
    if its_port and its_port != str(port):
        return False
    if (listed := _address(name)) is not None:
        return listed == address
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _parted(entry: str) -> tuple[str, str]:
    """An entry's host and its port, empty where there is none; IPv6 has colons of its own."""
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    else:
        name, port = entry, ""
    return name, port


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


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
        if spec.serve:  # a server of the run's own on this machine
            return cls(spec, None, None)
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
            message = self.mask.text(f"{type(error).__name__}: {error}")
            raise RequestError(
                f"{self.where} cannot be asked ({' '.join(message.split())[:300]})"
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
