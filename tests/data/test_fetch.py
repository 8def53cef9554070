"""The network: what forbids a download is named with its cause and what to do; and a home folder is no must."""

import contextlib
import http.server
import ssl
import threading
import urllib.error

import pytest

from spatialkit import data
from spatialkit.data import fetch
from spatialkit.lab import places, settings


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.delenv("SPATIALKIT_OFFLINE", raising=False)


@contextlib.contextmanager
def server(**codes):
    """A server on this machine that answers each method (HEAD, GET) with its code."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self):
            self.send_response(codes[self.command])
            self.end_headers()

        do_HEAD = do_GET = _answer

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}/file"
        one.shutdown()


@pytest.mark.parametrize("head", [200, 403, 405, 501])
def test_a_server_that_refuses_only_the_head_is_asked_for_the_file(head):
    with server(HEAD=head, GET=200) as url:
        assert fetch.reachable(url) and fetch.obstacle(url) == ""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (403, r"refuses this machine \(403 Forbidden\): a proxy or firewall may forbid it"),
        (405, r"answers 405 Method Not Allowed: try again later"),
        (404, r"is not there any more \(404 Not Found\): get the files elsewhere"),
        (503, r"answers 503 Service Unavailable: try again later"),
    ],
)
def test_an_answer_that_is_no_file_says_its_code(monkeypatch, tmp_path, code, says):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with server(HEAD=code, GET=code) as url:
        assert not fetch.reachable(url)
        with pytest.raises(data.DataMissing, match=says):
            fetch.download("MNIST", url, ["a"])


def test_an_untrusted_certificate_says_where_trust_comes_from(monkeypatch):
    untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed")
    untrusted.verify_message = "self-signed certificate in certificate chain"
    monkeypatch.setattr(fetch, "_asked", lambda *_: urllib.error.URLError(untrusted))
    said = fetch.obstacle("https://data.example/file")
    assert said.startswith("the certificate of data.example is not trusted (self-signed certificate")
    assert "set SSL_CERT_FILE" in said


def test_silence_and_the_switch_are_told_apart(monkeypatch):
    assert "127.0.0.1 does not answer (" in fetch.obstacle("http://127.0.0.1:9/file", timeout=1)
    monkeypatch.setenv("SPATIALKIT_OFFLINE", "1")
    assert fetch.obstacle("http://127.0.0.1:9/file") == "SPATIALKIT_OFFLINE is set: unset it to download"


@pytest.fixture
def homeless(monkeypatch):
    """Neither HOME nor an entry in the list of users, as under `docker run --user 12345`."""

    def no_entry(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)


def test_without_a_home_the_cache_is_in_the_bundle(homeless, monkeypatch, tmp_path):
    assert settings.home() is None
    assert fetch.cache_folder() == places.root() / "build" / "cache"
    assert data.load("digits").images.shape[1:] == (1, 8, 8)  # embedded: needs no cache at all
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / "spatialkit"


def test_with_a_home_the_cache_is_there(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / ".cache" / "spatialkit"
