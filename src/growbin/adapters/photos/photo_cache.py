"""The CDN's copies of public photos: made to forget one when its owner deletes it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import aioboto3
import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from growbin.errors import Unavailable
from growbin.job import READER_HEADER

TIMEOUT_SECONDS = 1.4  # of all its keys; a silent CDN must not hold up other deletions


class CdnPhotoCache:
    """Implements ports.PhotoCache. CloudFront is told by an invalidation; the local CDN, which has none,
    by a reader's request that must not be answered from the cache."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str, reader_secret: str) -> None:
        self._http = http
        self._base_url = base_url
        self._headers = {READER_HEADER: reader_secret, "Cache-Control": "no-cache"}
        self._distribution_id = ""
        self._cloudfront: Any = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, base_url: str, reader_secret: str, distribution_id: str, region: str
    ) -> AsyncIterator[Self]:
        async with aiohttp.ClientSession(trust_env=False) as http:
            cache = cls(http, base_url, reader_secret)
            if not distribution_id:
                yield cache
                return
            async with aioboto3.Session(region_name=region).client("cloudfront") as cloudfront:
                cache._distribution_id, cache._cloudfront = distribution_id, cloudfront
                yield cache

    async def forget(self, keys: Sequence[str]) -> None:
        """One invalidation for all. The objects must be gone from S3 before. Raises Unavailable."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if self._cloudfront is None:
                    for key in keys:
                        async with self._http.get(f"{self._base_url}/{key}", headers=self._headers):
                            pass
                    return
                await self._cloudfront.create_invalidation(
                    DistributionId=self._distribution_id,
                    InvalidationBatch={
                        "Paths": {"Quantity": len(keys), "Items": [f"/{key}" for key in keys]},
                        "CallerReference": str(uuid.uuid4()),
                    },
                )
        except (aiohttp.ClientError, BotoCoreError, ClientError, TimeoutError) as error:
            raise Unavailable("cdn", f"{type(error).__name__}: {error}") from error
