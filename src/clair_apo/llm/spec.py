"""A server's name, and its key: from the environment, and nowhere else. Loads no HTTP client."""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

from clair_apo.errors import RequestError
from clair_apo.llm.types import ModelSpec

GO_ON = "what was answered is kept: run the same command again to go on"
"""The end of a sentence with which a run ends."""


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
