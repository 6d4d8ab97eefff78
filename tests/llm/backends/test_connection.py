"""The proxy that the environment names, and the hosts that need none."""

import pytest

from clair_apo.errors import RequestError
from clair_apo.llm.backends.connection import find_proxy

URL = "http://10.1.2.3:8000/v1"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("variable", "value", "base_url", "url"),
    [
        ("http_proxy", "http://p:1", URL, "http://p:1"),
        ("HTTP_PROXY", "p:1", URL, "http://p:1"),
        ("https_proxy", "http://p:1", "https://models.example/v1", "http://p:1"),
        ("all_proxy", "https://p:1", URL, "https://p:1"),
        ("ALL_PROXY", "http://u:p@p", "https://models.example/v1", "http://u:p@p"),
    ],
)
def test_a_proxy_is_found_under_every_name_that_curl_knows(
    monkeypatch, variable, value, base_url, url
):
    monkeypatch.setenv(variable, value)
    proxy = find_proxy(base_url)
    assert (proxy.url, proxy.variable) == (url, variable)


def test_a_proxy_is_shown_without_its_user_and_password(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:p%40ss@word@p:1")
    proxy = find_proxy(URL)
    assert proxy.shown == "http://p:1"
    assert set(proxy.passwords) == {"p%40ss@word", "p@ss@word"}


@pytest.mark.parametrize("value", [None, "https_proxy"])
def test_no_proxy_for_the_kind_of_address_is_none(monkeypatch, value):
    if value:
        monkeypatch.setenv(value, "http://p:1")
    assert find_proxy(URL) is None


@pytest.mark.parametrize(
    "proxy",
    [
        *("socks://127.0.0.1:9", "socks5://127.0.0.1:9", "socks5h://u:hidden@h:9", "ftp://h"),
        *("http://", "http://[::1", "http://h:99999", "http://h:port", "http://a b", "http://h\n"),
        *("http://\udcff:1", "http://a..b:1", "://", "http://u:hidden@h:99999"),
    ],
)
def test_a_proxy_that_cannot_be_spoken_to_is_named_with_its_variable(monkeypatch, proxy):
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(RequestError, match=r"the proxy '.*' of \$all_proxy cannot be") as caught:
        find_proxy(URL)
    str(caught.value).encode()
    assert "hidden" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    assert find_proxy(URL) is None


@pytest.mark.parametrize(
    ("entry", "base_url"),
    [
        ("*", URL),
        ("10.1.2.3", URL),
        ("10.0.0.0/8", URL),
        ("x.example, 10.1.0.0/16,::1", URL),
        ("10.1.2.3:8000", URL),
        ("http://10.1.2.3", URL),
        ("::1", "http://[::1]:8000/v1"),
        ("[::1]", "http://[::1]:8000/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("fd00::/8", "http://[fd12::1]/v1"),
        ("0:0:0:0:0:0:0:1", "http://[::1]/v1"),
        ("example.com", "http://api.example.com/v1"),
        (".example.com", "http://api.example.com/v1"),
        ("*.example.com", "http://api.example.com/v1"),
        ("EXAMPLE.com.", "http://example.COM./v1"),
        ("api.example.com:80", "http://api.example.com/v1"),
        ("localhost", "http://localhost:1/v1"),
    ],
)
def test_a_host_that_no_proxy_lists_is_asked_directly(monkeypatch, entry, base_url):
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv("no_proxy", entry)
    assert find_proxy(base_url) is None


@pytest.mark.parametrize(
    ("entry", "base_url"),
    [
        ("10.1.2.3:8001", URL),
        ("11.0.0.0/8", URL),
        ("10.0.0.0/99, 10/8/8, [::1, [, //, ://, \udcff, 10.1.2.3:99999999999", URL),
        ("10.1.2", URL),
        ("ample.com", "http://example.com/v1"),
        ("api.example.com", "http://example.com/v1"),
        ("10.0.0.0/8", "http://ten.example/v1"),
        ("fd00::/8", URL),
    ],
)
def test_an_entry_that_means_another_host_or_nothing_changes_nothing(monkeypatch, entry, base_url):
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv("no_proxy", entry)
    assert find_proxy(base_url).url == "http://p:1"
