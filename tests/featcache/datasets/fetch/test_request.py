"""What a request refuses for the sake of safety, where no server on loopback can show it."""

import http.client
import io
import ssl
from typing import Any
from urllib.error import URLError
from urllib.request import Request

import pytest

from featcache.base.errors import BadInput
from featcache.datasets.fetch import request
from featcache.datasets.fetch.request import Version, ask


def redirected(source: str, target: str) -> Request | None:
    """Return the request that a redirect leads to."""
    body = io.BytesIO()
    return request._Redirects().redirect_request(Request(source), body, 302, "", http.client.HTTPMessage(), target)


def test_a_redirect_never_leads_from_https_to_http() -> None:
    with pytest.raises(BadInput, match="https://host/file: sends on to 'http://host/file', which is refused"):
        redirected("https://host/file", "http://host/file")


@pytest.mark.parametrize("source", ["http://host/file", "https://host/file"])
def test_a_redirect_may_lead_to_https(source: str) -> None:
    request = redirected(source, "https://other/file")
    assert request is not None
    assert request.full_url == "https://other/file"


def test_a_certificate_that_cannot_be_trusted_is_no_matter_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        error = ssl.SSLCertVerificationError("failed")
        error.verify_message = "self-signed certificate"
        raise URLError(error)

    monkeypatch.setattr(request._OPENER, "open", refuse)
    with (
        pytest.raises(BadInput, match="https://host/file: .* cannot be trusted: self-signed certificate"),
        ask("https://host/file", have=0, version=Version(), timeout=1.0),
    ):
        pass
