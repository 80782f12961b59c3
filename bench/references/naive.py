"""Gateway and consumer in the obvious way, on the libraries that growbin uses:

python -m bench.references.naive gateway PORT
python -m bench.references.naive consumer PORT      answers there once it consumes
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import sys
import time
import uuid
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aiohttp import web

from bench.references.naive_job import BUCKET, DAY_SECONDS, SETTINGS, job_to_do, open_redis, open_s3, tell

QUEUE = "naive.jobs"
QUORUM = {"x-queue-type": "quorum"}
PHOTO_MAX_BYTES = 10 * 1024 * 1024
PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp")
HEARTBEAT_SECONDS = 15


class NaiveGateway:
    async def open(self) -> NaiveGateway:
        self._redis = open_redis()
        self._s3 = await open_s3()
        connection = await aio_pika.connect_robust(SETTINGS["RABBITMQ_URL"])
        self._channel = await connection.channel(publisher_confirms=True)
        await self._channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
        return self

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/api/v1/sessions", self.new_session)
        app.router.add_post("/api/v1/waste/analyze", self.analyze)
        app.router.add_post("/upload-complete/{job_id}", self.complete)
        app.router.add_get("/api/v1/waste/jobs/{job_id}/events", self.events)
        app.router.add_get("/", ready)
        return app

    async def new_session(self, _request: web.Request) -> web.Response:
        token = secrets.token_urlsafe(32)
        await self._redis.set(f"naive:session:{_digest(token)}", "1", ex=7 * DAY_SECONDS)
        return web.json_response({"token": token}, status=201)

    async def analyze(self, request: web.Request) -> web.Response:
        owner = await self._owner(request)
        wanted = await request.json()
        job_id = str(uuid.uuid4())
        key, content_type = f"incoming/{job_id}", wanted.get("content_type", "image/jpeg")
        url = await self._s3.generate_presigned_url(
            "put_object", {"Bucket": BUCKET, "Key": key, "ContentType": content_type}, ExpiresIn=300
        )
        record = {"job_id": job_id, "owner": owner, "key": key, "created_at": time.time()}
        await self._redis.set(f"naive:record:{job_id}", json.dumps(record), ex=DAY_SECONDS)
        ticket = {
            "job_id": job_id,
            "upload_url": url,
            "upload_headers": {"Content-Type": content_type},
            "image_url": f"{SETTINGS['CDN_BASE_URL']}/{job_id}.jpg",
            "expires_in": 300,
            "links": {
                "upload_complete": f"/upload-complete/{job_id}",
                "events": f"/api/v1/waste/jobs/{job_id}/events",
            },
        }
        return web.json_response(ticket, status=201)

    async def complete(self, request: web.Request) -> web.Response:
        record = await self._record(request)
        stored = await self._s3.head_object(Bucket=BUCKET, Key=record["key"])
        if not 0 < stored["ContentLength"] <= PHOTO_MAX_BYTES or stored["ContentType"] not in PHOTO_TYPES:
            raise web.HTTPRequestEntityTooLarge(PHOTO_MAX_BYTES, stored["ContentLength"])
        record.update(etag=stored["ETag"].strip('"'), length=stored["ContentLength"], accepted_at=time.time())
        job_id, text = record["job_id"], json.dumps(record)
        await self._redis.set(f"naive:record:{job_id}", text, ex=DAY_SECONDS)
        message = aio_pika.Message(
            text.encode(),
            message_id=job_id,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._channel.default_exchange.publish(message, QUEUE, mandatory=True)
        await tell(self._redis, job_id, "queued")
        return web.json_response({"job_id": job_id, "stage": "queued"}, status=202)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A subscription for each client, as tutorials show it."""
        job_id = (await self._record(request))["job_id"]
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(f"naive:events:{job_id}")
            text: Any = await self._redis.get(f"naive:progress:{job_id}")
            while True:
                if text is None:
                    await response.write(b": still here\n\n")
                else:
                    event = json.loads(text)
                    kind = "done" if event["stage"] == "done" else "progress"
                    block = f"id: {event['seq']}\nevent: {kind}\ndata: {text}\n\n"
                    await response.write(block.encode())
                    if kind == "done":
                        return response
                heard = await subscription.get_message(
                    ignore_subscribe_messages=True, timeout=HEARTBEAT_SECONDS
                )
                text = heard["data"] if heard else None

    async def _owner(self, request: web.Request) -> str:
        owner = _digest(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if not await self._redis.exists(f"naive:session:{owner}"):
            raise web.HTTPUnauthorized
        return owner

    async def _record(self, request: web.Request) -> dict[str, Any]:
        owner = await self._owner(request)
        text = await self._redis.get(f"naive:record:{request.match_info['job_id']}")
        record: dict[str, Any] = json.loads(text or "{}")
        if record.get("owner") != owner:
            raise web.HTTPNotFound
        return record


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def ready(_request: web.Request) -> web.Response:
    return web.Response()


async def serve(app: web.Application, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()


async def gateway(port: int) -> None:
    await serve((await NaiveGateway().open()).app(), port)
    await asyncio.Event().wait()


async def consumer(port: int) -> None:
    work = await job_to_do().open()

    async def on_message(message: AbstractIncomingMessage) -> None:
        async with message.process():
            await work.do(json.loads(message.body))

    connection = await aio_pika.connect_robust(SETTINGS["RABBITMQ_URL"])
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=int(SETTINGS["CONSUMER_CONCURRENCY"]))
    queue = await channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
    await queue.consume(on_message)
    app = web.Application()
    app.router.add_get("/", ready)
    await serve(app, port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run({"gateway": gateway, "consumer": consumer}[sys.argv[1]](int(sys.argv[2])))
