"""Puts into words what the libraries below the HTTP client raise.

An error that is not known here may pass: it is tried again like a lost connection.
"""

import os
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import aiohttp
import httpx2


class ReplyTooLargeError(httpx2.TransportError):
    """A reply that is larger than what is read into memory."""


class LibraryFault(NamedTuple):
    """The meaning of an exception."""

    happened: str
    """What happened, as the rest of a sentence that begins with the server's name."""
    reason: str
    """What the library says; may hold what the server sent."""
    may_pass: bool = True
    advice: str = ""
    """What to do now, with the punctuation before it."""


def fault_of(error: BaseException, through_proxy: bool) -> LibraryFault:
    """Put an exception of an HTTP client into words.

    Args:
        error: with what it was raised from.
        through_proxy: the server is asked through a proxy.
    """
    chain = list(_chain(error))
    for kind in (_of_certificates, _of_proxy, _of_address, _of_reply):
        if fault := kind(chain):
            return fault
    reason = _reason(chain[-1])
    if through_proxy:
        return LibraryFault("could not be reached", reason, advice="; is the proxy there?")
    return LibraryFault("could not be reached", reason)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__


def _first(chain: list[BaseException], *kinds: type[BaseException]) -> BaseException | None:
    return next((one for one in chain if isinstance(one, kinds)), None)


def _of_certificates(chain: list[BaseException]) -> LibraryFault | None:
    # aiohttp's own error is one of ssl's too, and has none of its words: the innermost has
    error = _first(chain[::-1], ssl.SSLError)
    if error is None:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return LibraryFault(
            "has a certificate that is not accepted",
            getattr(error, "verify_message", "") or str(error),
            may_pass=False,
            advice="; name a file with the certificate of its authority in $SSL_CERT_FILE",
        )
    words = str(getattr(error, "reason", "") or error).replace("_", " ").lower()
    return LibraryFault(
        "could not be spoken to by TLS", words, advice="; does base_url begin with http:// there?"
    )


def _of_proxy(chain: list[BaseException]) -> LibraryFault | None:
    refused = _first(chain, aiohttp.ClientHttpProxyError)
    if isinstance(refused, aiohttp.ClientHttpProxyError):
        why = f"the proxy answered {refused.status}: {refused.message}"
        return LibraryFault("could not be reached", why, may_pass=refused.status >= 500)
    if _first(chain, aiohttp.ClientProxyConnectionError):
        why = f"the proxy: {_reason(chain[-1])}"
        return LibraryFault("could not be reached", why)
    return None


def _of_address(chain: list[BaseException]) -> LibraryFault | None:
    wrong = _first(
        chain, httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, UnicodeError
    )
    if wrong is None or _first(chain, httpx2.RemoteProtocolError):
        return None
    return LibraryFault(
        "cannot be asked", _reason(chain[-1]), may_pass=False, advice="; is base_url right?"
    )


def _of_reply(chain: list[BaseException]) -> LibraryFault | None:
    reason = _reason(chain[-1])
    if _first(chain, aiohttp.ClientResponseError, httpx2.RemoteProtocolError):
        no_http = "replied with something that is no HTTP"
        return LibraryFault(no_http, reason, advice="; is it a server of chat completions?")
    if _first(chain, ReplyTooLargeError):
        return LibraryFault("sent a reply that is not read to its end", reason)
    if _first(chain, httpx2.DecodingError):
        return LibraryFault("sent a reply that cannot be unpacked", reason)
    if _first(chain, RecursionError):
        return LibraryFault("sent a reply that is nested too deeply", reason)
    if _first(chain, httpx2.ReadError, httpx2.ReadTimeout):
        return LibraryFault("broke off a reply", reason)
    if isinstance(chain[-1], OSError | aiohttp.ClientError | httpx2.HTTPError):
        return None
    return LibraryFault("could not be asked", f"{type(chain[-1]).__name__}: {reason}")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        # names have numbers of their own, which are negative
        number = error.errno or 0
        return (os.strerror(number) if number > 0 else error.strerror).lower()
    return str(error) or type(error).__name__
