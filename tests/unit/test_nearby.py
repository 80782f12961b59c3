"""Which addresses no proxy stands before."""

from __future__ import annotations

import pytest

from growbin.nearby import is_nearby, proxy_before


@pytest.mark.parametrize(
    ("url", "nearby"),
    [
        ("http://127.0.0.1:8333", True),
        ("http://[::1]:8333/x", True),
        ("http://localhost:8333", True),
        ("http://minio:9000", True),
        ("http://minio.storage.svc", True),
        ("http://model.growbin.svc.cluster.local:80/v1", True),
        ("https://10.1.2.3", True),
        ("https://s3.ap-northeast-2.amazonaws.com", False),
        ("https://203.0.114.9", False),
        ("https://svc.example.com", False),
        ("", False),
        (None, False),
    ],
)
def test_own_parts_are_nearby_and_vendors_are_far(url: str | None, nearby: bool) -> None:
    """By number or name; nothing is looked up."""
    assert is_nearby(url) is nearby


def test_proxy_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment's own rules, and never before what is nearby."""
    for name in ("HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_before("https://s3.example.com") is None
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example.com:3128")
    assert proxy_before("https://s3.example.com/x") == "proxy.example.com:3128"
    assert proxy_before("http://s3.example.com/x") is None
    assert proxy_before("https://127.0.0.1:8333") is None
    monkeypatch.setenv("no_proxy", "example.com")
    assert proxy_before("https://s3.example.com") is None
