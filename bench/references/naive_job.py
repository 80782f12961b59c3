"""The job as most would write it on the first day: one call of one library after the other, no guarantee."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from typing import Any

import aioboto3
import aiohttp
import openai
from aiobotocore.config import AioConfig
from redis.asyncio import Redis

from bench.references.pillow import smaller
from bench.references.told import ADVICE, MESSAGES, NUMBERS
from tests.model_personalities import ANSWER

SETTINGS = os.environ
BUCKET = SETTINGS["S3_BUCKET_NAME"]
PERCENT = {"queued": 10, "fetching": 25, "analysing": 45, "advising": 90, "done": 100}
DAY_SECONDS = 24 * 3600
MOST_CONNECTIONS = 10_000


def open_redis() -> Redis:
    """The library's own limit of connections would refuse a call of one job in a hundred at once."""
    url = f"{SETTINGS['REDIS_URL'].rstrip('/')}/2"
    return Redis.from_url(url, decode_responses=True, max_connections=MOST_CONNECTIONS)


async def open_s3() -> Any:
    config = AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        max_pool_connections=64,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = aioboto3.Session(region_name=SETTINGS["AWS_REGION"])
    client = session.client("s3", endpoint_url=SETTINGS["S3_ENDPOINT_URL"], config=config)
    return await client.__aenter__()  # open as long as the process


async def tell(redis: Redis, job_id: str, stage: str, **more: object) -> None:
    """The event is kept for who comes later, and sent to who is here."""
    event = {
        "job_id": job_id,
        "seq": NUMBERS[stage],
        "stage": stage,
        "progress": PERCENT[stage],
        "message": MESSAGES[stage],
        "updated_at": time.time(),
        **more,
    }
    text = json.dumps(event, ensure_ascii=False)
    await redis.set(f"naive:progress:{job_id}", text, ex=3600)
    await redis.publish(f"naive:events:{job_id}", text)


class NaiveJob:
    """What a worker holds open, and the job."""

    async def open(self) -> NaiveJob:
        self._redis = open_redis()
        self._s3 = await open_s3()
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=10), connector=aiohttp.TCPConnector(limit=0)
        )
        self._model = openai.AsyncOpenAI(
            api_key=SETTINGS["OPENAI_API_KEY"],
            base_url=SETTINGS["OPENAI_BASE_URL"],
            max_retries=0,
            timeout=60,
        )
        self._prompt = SETTINGS["BENCH_PROMPT"]
        self._response_format = json.loads(SETTINGS["BENCH_RESPONSE_FORMAT"])
        return self

    async def do(self, job: dict[str, str]) -> None:
        job_id, key = job["job_id"], job["key"]
        await tell(self._redis, job_id, "fetching")
        photo = await self.photo(job_id, key)
        await tell(self._redis, job_id, "analysing")
        text, usage = await self.ask(photo)
        found = json.loads(text)
        await tell(self._redis, job_id, "advising")
        result = {
            "job_id": job_id,
            "items": [{**item, **ADVICE} for item in found["items"]],
            "usage": usage,
        }
        await self._redis.set(f"naive:result:{job_id}", json.dumps(result), ex=7 * DAY_SECONDS)
        await tell(self._redis, job_id, "done", result=result)

    async def photo(self, job_id: str, key: str) -> bytes:
        headers = {"X-Growbin-Reader": SETTINGS["CDN_READER_SECRET"]}
        async with self._http.get(f"{SETTINGS['CDN_BASE_URL']}/{key}", headers=headers) as answer:
            answer.raise_for_status()
            raw = await answer.read()
        photo = await asyncio.to_thread(smaller, raw)
        await self._s3.put_object(
            Bucket=BUCKET,
            Key=f"{job_id}.jpg",
            Body=photo,
            ContentType="image/jpeg",
            CacheControl=f"public, max-age={DAY_SECONDS}",
        )
        return photo

    async def ask(self, photo: bytes) -> tuple[str, dict[str, Any]]:
        url = f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"
        completion = await self._model.chat.completions.create(
            model=SETTINGS["OPENAI_MODEL"],
            max_completion_tokens=1500,
            response_format=self._response_format,
            messages=[
                {"role": "system", "content": self._prompt},
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": url, "detail": "low"}}],
                },
            ],
        )
        usage = completion.usage.model_dump() if completion.usage else {}
        return completion.choices[0].message.content or "{}", usage


class FakedJob(NaiveJob):
    """Photo and model cost nothing: what is left is the consumer."""

    async def photo(self, job_id: str, key: str) -> bytes:
        return b""

    async def ask(self, photo: bytes) -> tuple[str, dict[str, Any]]:
        await asyncio.sleep(float(SETTINGS["BENCH_FAKED_SECONDS"]))
        return ANSWER, {}


def job_to_do() -> NaiveJob:
    """Faked where the settings say what a model then takes."""
    return FakedJob() if "BENCH_FAKED_SECONDS" in SETTINGS else NaiveJob()
