"""The proxy that the environment names for a server. Loads no HTTP client.

Names are those of curl: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in small letters
or capitals; `no_proxy` lists hosts, domains, addresses and ranges of addresses (`10.0.0.0/8`), each
with a port if need be, or `*`.
"""

import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies

from clair_apo.errors import RequestError

_PORTS = {"http": 80, "https": 443}


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
        """What must never be shown: the password, as it stands there and as it is meant."""
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
