"""EKS Pod Identity: what the node's agent says is what a ticket is signed with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from growbin.adapters.photos.upload_store import S3UploadStore
from tests.loopback import served

TOKEN = "the pod's token"


async def test_ticket_is_signed_with_what_the_agent_gives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With what EKS puts into a pod, variables and a token, and nothing else."""
    asked: list[str | None] = []

    async def agent(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.headers.get("Authorization"))
        expires = datetime.now(UTC) + timedelta(hours=6)
        return web.json_response(
            {
                "AccessKeyId": "OFTHEPOD",
                "SecretAccessKey": "secret",
                "Token": "session",
                "AccountId": "000000000000",
                "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )

    (tmp_path / "token").write_text(TOKEN)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    async with served(agent) as address:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{address}/v1/credentials")
        async with S3UploadStore.open(bucket="photos", region="ap-northeast-2") as store:
            ticket = await store.ticket("incoming/one", "image/jpeg", 1000, 300)
    assert "X-Amz-Credential=OFTHEPOD" in ticket.url
    assert "X-Amz-Security-Token=session" in ticket.url
    assert asked == [TOKEN]
