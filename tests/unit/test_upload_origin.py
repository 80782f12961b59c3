"""Where the page may upload: what the tickets say, whatever the bucket is called and wherever it lies."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest

from growbin.config import Settings
from growbin.errors import Unavailable
from growbin.wiring.parts import open_uploads


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        ({"s3_bucket_name": "photos"}, "https://photos.s3.ap-northeast-2.amazonaws.com"),
        ({"s3_bucket_name": "photos.example"}, "https://s3.ap-northeast-2.amazonaws.com"),
        ({"s3_bucket_name": "photos", "aws_region": "us-east-1"}, "https://photos.s3.amazonaws.com"),
        (
            {"s3_bucket_name": "photos", "aws_region": "cn-north-1"},
            "https://photos.s3.cn-north-1.amazonaws.com.cn",
        ),
        ({"s3_endpoint_url": "http://127.0.0.1:8333"}, "http://127.0.0.1:8333"),
        ({"s3_endpoint_url": "https://s3.example:9000/"}, "https://s3.example:9000"),
        ({"s3_bucket_name": "a.b", "s3_endpoint_url": "https://s3.example"}, "https://s3.example"),
    ],
)
async def test_page_may_upload_where_tickets_point(
    monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, str], origin: str
) -> None:
    """Both come from one ticket, so that the page's policy lets through what the ticket asks for."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    chosen = Settings.model_validate(settings)
    async with open_uploads(chosen) as uploads:
        assert uploads.origin == origin
        ticket = urlsplit((await uploads.ticket("incoming/a", "image/jpeg", 5, 300)).url)
    assert f"{ticket.scheme}://{ticket.netloc}" == origin


async def test_endpoint_of_the_environment_counts_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's own variable moves tickets, and the page's policy with them; no credentials are needed."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:8333")
    async with open_uploads(Settings.model_validate({})) as uploads:
        assert uploads.origin.endswith("127.0.0.1:8333")


async def test_bucket_that_cannot_be_is_told_in_words() -> None:
    """Whoever asks for it hears what is wrong with its name, before anything is asked of S3."""
    with pytest.raises(Unavailable, match="arn:photos"):
        async with open_uploads(Settings.model_validate({"s3_bucket_name": "arn:photos"})):
            pass
