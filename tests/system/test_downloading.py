"""Redirects of downloads: never from an encrypted connection to an open one."""

from __future__ import annotations

import email.message
import io
import urllib.request
import urllib.response
from urllib.error import HTTPError

import pytest

from anipot.system import downloading
from anipot.system.downloading import DownloadError, download

BUILD = urllib.request.build_opener


class Answers(urllib.request.BaseHandler):
    """Stands in for the network: what each address answers with."""

    handler_order = 100  # before those of urllib

    def __init__(self, redirects: dict[str, str]) -> None:
        self.redirects = redirects
        self.asked: list[str] = []

    def answer(self, request: urllib.request.Request) -> urllib.response.addinfourl:
        url = request.full_url
        self.asked.append(url)
        headers = email.message.Message()
        code = 200
        if url in self.redirects:
            code = 302
            headers["Location"] = self.redirects[url]
        response = urllib.response.addinfourl(io.BytesIO(b"content"), headers, url, code)
        response.msg = "OK"  # type: ignore[attr-defined]
        return response

    http_open = https_open = answer


@pytest.fixture
def network(monkeypatch):
    def start(**redirects: str) -> Answers:
        answers = Answers({f"{k.replace('_', '://')}.org/a": v for k, v in redirects.items()})
        monkeypatch.setattr(
            downloading.urllib.request, "build_opener", lambda *more: BUILD(answers, *more)
        )
        return answers

    return start


def test_from_https_to_http_is_refused(network):
    for target in ("http://other.org/a", "HTTP://one.org/a", "ftp://other.org/a"):
        answers = network(https_one=target)
        with pytest.raises(DownloadError, match="redirected from https to "):
            download("https://one.org/a", io.BytesIO(), "a", 100)
        assert answers.asked == ["https://one.org/a"]


def test_behind_another_redirect_too(network):
    answers = network(https_one="https://two.org/a", https_two="http://three.org/a")
    with pytest.raises(DownloadError, match=r"to http://three\.org/a.*refused"):
        download("https://one.org/a", io.BytesIO(), "a", 100)
    assert len(answers.asked) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("https_one", "https://two.org/a"),
        ("http_one", "https://two.org/a"),
        ("http_one", "http://two.org/a"),
        ("https_one", "/b"),
        ("https_one", "//two.org/b"),
    ],
)
def test_other_redirects_are_followed(first, second, network):
    network(**{first: second})
    file = io.BytesIO()
    download(f"{first.replace('_', '://')}.org/a", file, "a", 100)
    assert file.getvalue() == b"content"


def test_what_an_http_error_says_is_kept(network):
    answers = network()

    def refuse(request: urllib.request.Request) -> None:
        raise HTTPError(request.full_url, 404, "Not Found", email.message.Message(), None)

    answers.https_open = refuse  # type: ignore[assignment]
    with pytest.raises(DownloadError, match="404"):
        download("https://one.org/a", io.BytesIO(), "a", 100)
