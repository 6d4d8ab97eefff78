"""What no server should do and some do: each is a sentence, and passes where it passes."""

import json
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager

import pytest
import stamina

from clair_apo.errors import RequestError
from clair_apo.llm import ModelSpec
from clair_apo.llm.backends import connection, server_health
from clair_apo.llm.backends.http import HttpChat
from tests.helpers.chat_server import ChatServer, Reply
from tests.helpers.http_chats import answers, fine, spec_for

KEY = "sk-very-secret-5f2a"
WHOLE = fine().body.encode()
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"


def sized(body, head=JSON):
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


GOOD = sized(WHOLE)
ODD = {
    "long header": sized(WHOLE, JSON + b"X-Policy: " + b"a" * 9000 + b"\r\n"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "doubled length": sized(WHOLE, JSON + b"Content-Length: 3\r\n"),
    "negative length": JSON + b"Content-Length: -5\r\n\r\n" + WHOLE,
    "bad chunk": JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "zero byte in a header": sized(WHOLE, JSON + b"X: a\x00b\r\n"),
    "bytes that are no text in a header's name": sized(WHOLE, JSON + b"X-\xff: a\r\n"),
    "bytes that are no gzip": sized(b"abcdef", JSON + b"Content-Encoding: gzip\r\n"),
    "bytes that are no deflate": sized(b"abcdef", JSON + b"Content-Encoding: deflate\r\n"),
    "half a reply": JSON + b"Content-Length: 4000\r\n\r\n" + WHOLE,
    "nothing": b"",
    "deep JSON": sized(b"[" * 200_000),
    "deep JSON that closes": sized(b'{"choices":' + b"[" * 400 + b"]" * 400 + b"}"),
    "deep JSON with status 500": sized(b"[" * 200_000, b"HTTP/1.1 500 No\r\n"),
    "no such redirect": b"HTTP/1.1 307 T\r\nLocation: http://[::1/x\r\nContent-Length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
}


@contextmanager
def raw_server(*replies, tls=None):
    """Sends the bytes of each reply to one request each, the last one for good."""
    waiting, asked = list(replies), []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)

        def serve():
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                try:
                    if tls:
                        client = tls.wrap_socket(client, server_side=True)
                    request = client.recv(65536)
                    while request[:4] == b"POST" and b"\r\n\r\n" not in request:
                        request += client.recv(65536)
                    asked.append(request)
                    client.sendall(waiting.pop(0) if len(waiting) > 1 else waiting[0])
                    client.shutdown(socket.SHUT_WR)
                    client.settimeout(1)
                    while client.recv(65536):
                        pass
                except OSError:
                    pass
                client.close()

        threading.Thread(target=serve, daemon=True).start()
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{listening.getsockname()[1]}/v1", asked


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "OPENAI_ORG_ID"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(server_health, "FIRST_PATIENCE_S", 0.0)
    stamina.set_testing(True, attempts=100)
    yield
    stamina.set_testing(False)


def failure(spec, *texts):
    with pytest.raises(RequestError) as caught:
        answers(spec, *(texts or ["q"]))
    message = str(caught.value)
    message.encode()
    assert KEY not in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("case", ODD)
def test_one_odd_reply_is_tried_again_like_a_lost_connection(case):
    with raw_server(ODD[case], GOOD) as (url, asked):
        assert answers(spec_for(url), "q")["q"].response["choices"]
    assert len(asked) == 2


@pytest.mark.parametrize("case", ODD)
def test_a_server_that_sends_nothing_but_odd_replies_ends_the_run_with_a_sentence(case):
    with raw_server(ODD[case]) as (url, _):
        message = failure(spec_for(url))
    assert message.startswith(url.removeprefix("http://").removesuffix("/v1"))


def test_a_reply_without_end_is_not_read_to_it(monkeypatch):
    monkeypatch.setattr(connection, "MOST_BYTES", 1000)
    with raw_server(HUGE + b"a" * 100_000, GOOD) as (url, asked):
        assert answers(spec_for(url), "q")["q"].response["choices"]
    assert len(asked) == 2
    with raw_server(HUGE + b"a" * 100_000) as (url, _):
        assert "not read to its end" in failure(spec_for(url))


@pytest.mark.parametrize("tokens", [10**400, -3, 1.5, "many", True, None])
def test_a_usage_that_no_budget_can_count_is_an_answer_all_the_same(tokens):
    body = json.loads(WHOLE) | {"usage": {"total_tokens": tokens, "prompt_tokens": tokens}}
    with raw_server(sized(json.dumps(body).encode())) as (url, _):
        found = answers(spec_for(url, tokens_per_minute=10**6), "q")
    assert found["q"].response["choices"]


def test_redirects_without_end_are_a_sentence():
    with raw_server(b"HTTP/1.1 307 T\r\nLocation: /v1/x\r\nContent-Length: 0\r\n\r\n") as (url, _):
        assert "127.0.0.1" in failure(spec_for(url))


# --- addresses and what the environment says


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8000/v1 ", "http://127.0.0.1:8000/v1\n", "http://127.0.0.1:80 00/v1"),
        *(
            "http://127.0.0.1:8000/v\r\n1",
            "http://ho\tst/v1",
            "http://h/\udcff",
            "http://\udcff/v1",
        ),
        *("http://127.0.0.1:99999/v1", "http://127.0.0.1:-1/v1", "http://h:port/v1"),
        *("http://[::1/v1", "http://[fe80::1%25eth0]:8000/v1", "http://[nothing]/v1"),
        *("http://a..b/v1", "http://" + "a" * 70 + ".example/v1", "http://h\u2028/v1"),
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_asked(url):
    with pytest.raises(ValueError, match=r"base_url\n") as caught:
        ModelSpec(model="m", base_url=url)
    str(caught.value).encode()


@pytest.mark.parametrize("url", ["http://\u2603.invalid/v1", "http://xn--a.invalid/v1"])
def test_a_host_that_only_the_client_refuses_is_a_sentence(url):
    assert "invalid" in failure(spec_for(url))


@pytest.mark.parametrize("variable", ["OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
@pytest.mark.parametrize(
    "value", ["org\nX-Evil: 1", "\u00fcber", "org\udcff", "a\x00b"[:1] + "\x7f"]
)
def test_an_organisation_that_no_header_can_have_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with raw_server(GOOD) as (url, asked):
        assert f"${variable} holds characters" in failure(spec_for(url))
    assert not asked


def test_an_organisation_with_a_line_end_is_sent_without_it(monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1\r\n")
    with raw_server(GOOD) as (url, asked):
        answers(spec_for(url), "q")
    assert b"openai-organization: org-1\r\n" in asked[0].lower()


def test_certificates_that_are_not_there_are_named_by_their_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    assert "$SSL_CERT_FILE" in failure(spec_for("https://127.0.0.1:1/v1"))
    (tmp_path / "gone.pem").write_text("no certificate")
    assert "$SSL_CERT_FILE" in failure(spec_for("https://127.0.0.1:1/v1"))


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory):
    """A server's context with a certificate of its own making, and the file of that."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def test_a_certificate_of_nobody_known_is_told_as_such(self_signed, monkeypatch):
    context, certificate = self_signed
    with raw_server(GOOD, tls=context) as (url, _):
        message = failure(spec_for(url))
        assert "certificate that is not accepted (self-signed certificate)" in message
        assert "$SSL_CERT_FILE" in message
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert answers(spec_for(url), "q")["q"].response["choices"]


def test_tls_where_none_is_spoken_and_the_reverse_are_sentences(self_signed):
    with raw_server(GOOD) as (url, _):
        message = failure(spec_for(url.replace("http:", "https:")))
        assert "TLS" in message
        assert "does base_url begin with http:// there?" in message
    with raw_server(GOOD, tls=self_signed[0]) as (url, _):
        assert "127.0.0.1" in failure(spec_for(url.replace("https:", "http:")))


# --- proxies


def test_a_proxy_that_is_down_is_named_with_its_variable_and_without_its_password(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:hidden-word@127.0.0.1:9")
    message = failure(spec_for("http://models.invalid/v1"))
    assert "through the proxy http://127.0.0.1:9 of $http_proxy" in message
    assert "hidden-word" not in message


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses_is_named(monkeypatch, scheme, status):
    page = b"<html>blocked, Basic bWU6aGlkZGVuLXdvcmQtMTIzNA==</html>"
    refusal = sized(page, b"HTTP/1.1 %d No\r\nConnection: close\r\n" % status)
    with raw_server(refusal) as (url, asked):
        address = url.removesuffix("/v1").removeprefix("http://")
        monkeypatch.setenv(f"{scheme}_proxy", f"http://me:hidden-word-1234@{address}")
        message = failure(spec_for(f"{scheme}://models.invalid/v1"))
    assert f"through the proxy http://{address} of ${scheme}_proxy" in message.split("<html>")[0]
    assert str(status) in message
    assert "hidden" not in message
    assert "aGlkZGVuLXdvcmQtMTIzN" not in message
    assert b"proxy-authorization: basic bWU6aGlkZGVuLXdvcmQtMTIzNA==".lower() in asked[0].lower()


def test_a_server_that_no_proxy_lists_is_asked_directly_whatever_the_proxy_is(monkeypatch):
    monkeypatch.setenv("all_proxy", "socks://127.0.0.1:9")
    with raw_server(GOOD) as (url, _):
        assert "$all_proxy" in failure(spec_for(url))
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.0/8,::1")
        assert answers(spec_for(url), "q")["q"].response["choices"]


def test_a_proxy_that_works_is_asked_for_the_server(monkeypatch):
    with raw_server(GOOD) as (url, asked):
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1"))
        assert answers(spec_for("http://models.invalid/v1"), "q")["q"].response["choices"]
    assert asked[0].startswith(b"POST http://models.invalid/v1/chat/completions")


# --- keys


ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
LEAKS = {
    "at the cut of 60 characters": Reply(body="x" * 50 + KEY),
    "at the cut of 300 characters": Reply(status=400, body="y" * 290 + KEY),
    "in JSON escapes": Reply(status=400, body='{"odd": "' + ESCAPED + '"}'),
    "in an address": Reply(status=400, body={"error": {"message": f"?key={KEY}&"}}),
    "in an error of status 200": Reply(body={"error": {"code": 400, "message": f"no {KEY}"}}),
    "in a name": Reply(status=400, body={"error": {KEY: 1}}),
    "broken off": Reply(body="Bearer " + KEY[:-3]),
}


@pytest.mark.parametrize("case", LEAKS)
def test_no_part_of_the_key_is_in_a_sentence(case):
    with ChatServer(lambda _: LEAKS[case]) as server:
        message = failure(spec_for(server.url))
    assert KEY[:9] not in message
    assert "***" in message


def test_a_key_that_a_server_echoes_in_its_answer_is_not_handed_on():
    def reply(asked):
        key = asked.headers["authorization"]
        return fine(echo={key: [key]}, choices=[{"message": {"content": f"You sent {key}."}}])

    with ChatServer(reply) as server:
        (answered,) = answers(spec_for(server.url), "q").values()
    assert KEY not in json.dumps(answered.response)
    assert answered.response["choices"][0]["message"]["content"] == "You sent Bearer ***."


def test_a_client_that_cannot_be_made_leaves_no_thread_behind(monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "a\nb")
    before = threading.active_count()
    with pytest.raises(RequestError):
        HttpChat(spec_for("http://127.0.0.1:1/v1"))
    assert threading.active_count() == before
