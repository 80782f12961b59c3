"""The least code with the same I/O: no guarantee but persistent messages, confirms and acknowledgements.

    python -m bench.references.floor gateway PORT
    python -m bench.references.floor consumer PORT      answers there once it consumes

Signatures by hand, one script a stage over one connection, one subscription for all streams that writes
straight to their sockets, the model's request cut into what never changes and the photo, AMQP without the
layer above it, and growbin's own children for the photos.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from functools import cache
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import aiormq
import hiredis
from aiohttp import web
from aiormq.abc import AbstractChannel, DeliveredMessage

from bench.references.told import ADVICE, MESSAGES, NUMBERS
from growbin.photo import ANSWER, REQUEST

SETTINGS = os.environ
QUEUE = "floor.jobs"
S3 = f"{SETTINGS['S3_ENDPOINT_URL'].rstrip('/')}/{SETTINGS['S3_BUCKET_NAME']}"
S3_HOST, S3_PATH = urlsplit(S3).netloc, urlsplit(S3).path
DAY_SECONDS = 24 * 3600
PHOTO_MAX_BYTES = 10 * 1024 * 1024
JSON = {"Content-Type": "application/json"}


# --- S3 -----------------------------------------------------------------------------------------


@cache
def signing_key(day: str) -> bytes:
    key = f"AWS4{SETTINGS['AWS_SECRET_ACCESS_KEY']}".encode()
    for word in (day, SETTINGS["AWS_REGION"], "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key


def signature(moment: str, scope: str, canonical: str) -> str:
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    return hmac.digest(signing_key(moment[:8]), text.encode(), "sha256").hex()


def moment_and_scope() -> tuple[str, str]:
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return moment, f"{moment[:8]}/{SETTINGS['AWS_REGION']}/s3/aws4_request"


def presigned(key: str, content_type: str) -> str:
    moment, scope = moment_and_scope()
    credential = f"{SETTINGS['AWS_ACCESS_KEY_ID']}/{scope}".replace("/", "%2F")
    query = (
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={moment}"
        "&X-Amz-Expires=300&X-Amz-SignedHeaders=content-type%3Bhost"
    )
    canonical = (
        f"PUT\n{S3_PATH}/{key}\n{query}\ncontent-type:{content_type}\nhost:{S3_HOST}\n\n"
        "content-type;host\nUNSIGNED-PAYLOAD"
    )
    return f"{S3}/{key}?{query}&X-Amz-Signature={signature(moment, scope, canonical)}"


def signed(method: str, key: str) -> dict[str, str]:
    moment, scope = moment_and_scope()
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = (
        f"{method}\n{S3_PATH}/{key}\n\nhost:{S3_HOST}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\n"
        f"x-amz-date:{moment}\n\n{names}\nUNSIGNED-PAYLOAD"
    )
    return {
        "X-Amz-Date": moment,
        "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={SETTINGS['AWS_ACCESS_KEY_ID']}/{scope},"
        f"SignedHeaders={names},Signature={signature(moment, scope, canonical)}",
    }


def open_http() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )


# --- Redis --------------------------------------------------------------------------------------

TELL = """
redis.call('SET', KEYS[1], ARGV[1], 'EX', 3600)
redis.call('PUBLISH', KEYS[2], ARGV[1])
if ARGV[2] then redis.call('SET', KEYS[3], ARGV[2], 'EX', 604800) end
"""


class Redis(asyncio.Protocol):
    """One connection: a question is one write, answers come in the order of the questions."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self.on_message: Callable[[bytes, bytes], None] | None = None

    @classmethod
    async def open(cls) -> Redis:
        url = urlsplit(SETTINGS["REDIS_URL"])
        _, redis = await asyncio.get_running_loop().create_connection(
            cls, url.hostname or "", url.port or 6379
        )
        await redis.ask("AUTH", url.password or "")
        await redis.ask("SELECT", "2")
        redis.script = (await redis.ask("SCRIPT", "LOAD", TELL)).decode()
        return redis

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.script = ""

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            if self.on_message is None:
                future = self._waiting.popleft()
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            elif answer[0] == b"pmessage":
                self.on_message(answer[2], answer[3])

    def send(self, *words: str | bytes | int) -> None:
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub takes one word

    def ask(self, *words: str | bytes | int) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.send(*words)
        return future

    def tell(self, job_id: str, stage: str, result: str = "") -> asyncio.Future[Any]:
        tail = f',"result":{result}' if result else ""
        seq = NUMBERS[stage]
        event = (
            f'{{"job_id":"{job_id}","seq":{seq},"stage":"{stage}","progress":{20 * seq},'
            f'"message":"{MESSAGES[stage]}","updated_at":{time.time()}{tail}}}'
        )
        keys = (f"floor:progress:{job_id}", f"floor:{job_id}", f"floor:result:{job_id}")
        return self.ask("EVALSHA", self.script, 3, *keys, event, *([result] if result else []))


# --- RabbitMQ -----------------------------------------------------------------------------------


async def open_channel() -> AbstractChannel:
    connection = await aiormq.connect(SETTINGS["RABBITMQ_URL"])
    channel = await connection.channel(publisher_confirms=True)
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    connections.append(connection)
    return channel


connections: list[object] = []  # as long as the process


# --- gateway ------------------------------------------------------------------------------------


class FloorGateway:
    async def open(self) -> FloorGateway:
        self._redis = await Redis.open()
        self._http = open_http()
        self._channel = await open_channel()
        self._streams: dict[bytes, list[Stream]] = defaultdict(list)
        listening = await Redis.open()
        listening.on_message = self.on_message
        listening.send("PSUBSCRIBE", "floor:*")
        return self

    def on_message(self, channel: bytes, event: bytes) -> None:
        for stream in self._streams.get(channel, ()):
            stream.write(event)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.path.split("/")[1:]:
            case ["api", "v1", "waste", "analyze"]:
                return await self.analyze(request)
            case ["upload-complete", job_id]:
                return await self.complete(request, job_id)
            case ["api", "v1", "waste", "jobs", job_id, "events"]:
                return await self.events(request, job_id)
            case ["api", "v1", "sessions"]:
                return answer(201, {"token": secrets.token_urlsafe(32)})  # whoever has it, owns its jobs
            case _:
                return answer(200, {})

    async def analyze(self, request: web.BaseRequest) -> web.Response:
        content_type = json.loads(await request.read()).get("content_type", "image/jpeg")
        job_id = str(uuid.uuid4())
        record = {"job_id": job_id, "owner": owner_of(request), "key": f"incoming/{job_id}"}
        await self._redis.ask("SET", f"floor:record:{job_id}", json.dumps(record), "EX", DAY_SECONDS)
        ticket = {
            "job_id": job_id,
            "upload_url": presigned(record["key"], content_type),
            "upload_headers": {"Content-Type": content_type},
            "image_url": f"{SETTINGS['CDN_BASE_URL']}/{job_id}.jpg",
            "links": {
                "upload_complete": f"/upload-complete/{job_id}",
                "events": f"/api/v1/waste/jobs/{job_id}/events",
            },
        }
        return answer(201, ticket)

    async def complete(self, request: web.BaseRequest, job_id: str) -> web.Response:
        record = await self.record(request, job_id)
        headers = signed("HEAD", record["key"])
        async with self._http.head(f"{S3}/{record['key']}", headers=headers) as stored:
            length = int(stored.headers["Content-Length"])
            if stored.status != 200 or not 0 < length <= PHOTO_MAX_BYTES:
                return answer(409, {})
            record |= {"etag": stored.headers["ETag"].strip('"'), "length": length, "at": time.time()}
        properties = aiormq.spec.Basic.Properties(
            message_id=job_id, content_type="application/json", delivery_mode=2
        )
        await self._channel.basic_publish(
            json.dumps(record).encode(), routing_key=QUEUE, properties=properties, mandatory=True
        )
        await self._redis.tell(job_id, "queued")
        return answer(202, {"job_id": job_id, "stage": "queued"})

    async def events(self, request: web.BaseRequest, job_id: str) -> web.StreamResponse:
        await self.record(request, job_id)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        stream, channel = Stream(cast(asyncio.Transport, request.transport)), f"floor:{job_id}".encode()
        self._streams[channel].append(stream)
        try:
            if event := await self._redis.ask("GET", f"floor:progress:{job_id}"):
                stream.write(event)
            await stream.end
            await response.write_eof()
        finally:
            self._streams[channel].remove(stream)
            if not self._streams[channel]:
                del self._streams[channel]
        return response

    async def record(self, request: web.BaseRequest, job_id: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(await self._redis.ask("GET", f"floor:record:{job_id}") or b"{}")
        if record.get("owner") != owner_of(request):
            raise web.HTTPNotFound
        return record


class Stream:
    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.end = asyncio.get_running_loop().create_future()

    def write(self, event: bytes) -> None:
        is_last = b'"stage":"done"' in event
        block = b"event: %b\ndata: %b\n\n" % (b"done" if is_last else b"progress", event)
        self._transport.write(b"%x\r\n%b\r\n" % (len(block), block))
        if is_last and not self.end.done():
            self.end.set_result(None)


def owner_of(request: web.BaseRequest) -> str:
    return hashlib.sha256(request.headers.get("Authorization", "").encode()).hexdigest()


def answer(status: int, body: object) -> web.Response:
    return web.Response(status=status, body=json.dumps(body).encode(), headers=JSON)


async def serve(handler: Callable[[web.BaseRequest], Any], port: int) -> None:
    runner = web.ServerRunner(web.Server(handler, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()


async def gateway(port: int) -> None:
    await serve((await FloorGateway().open()).answer, port)
    await asyncio.Event().wait()


# --- consumer -----------------------------------------------------------------------------------

MODEL_HEADERS = {**JSON, "Authorization": f"Bearer {SETTINGS['OPENAI_API_KEY']}"}
CDN_HEADERS = {"X-Growbin-Reader": SETTINGS["CDN_READER_SECRET"], "Accept-Encoding": "identity"}
COPY_HEADERS = {"Content-Type": "image/jpeg", "Cache-Control": f"public, max-age={DAY_SECONDS}"}
MOST_PIXELS, MODEL_SIDE_PIXELS = 50_000_000, 1024
CHILDREN = 2


def request_around(photo: str) -> tuple[bytes, bytes]:
    """The model's request, before and after the photo."""
    url = {"url": f"data:image/jpeg;base64,{photo}", "detail": "low"}
    request = {
        "model": SETTINGS["OPENAI_MODEL"],
        "max_completion_tokens": 1500,
        "response_format": json.loads(SETTINGS["BENCH_RESPONSE_FORMAT"]),
        "messages": [
            {"role": "system", "content": SETTINGS["BENCH_PROMPT"]},
            {"role": "user", "content": [{"type": "image_url", "image_url": url}]},
        ],
    }
    before, _, after = json.dumps(request).encode().partition(photo.encode())
    return before, after


class FloorJob:
    async def open(self) -> FloorJob:
        self._redis = await Redis.open()
        self._http = open_http()
        self._before, self._after = request_around("<photo>")
        self._idle: asyncio.LifoQueue[asyncio.subprocess.Process] = asyncio.LifoQueue()
        for _ in range(CHILDREN):
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "growbin.photo"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 30,
                env={},
            )
            self._idle.put_nowait(child)
        return self

    async def do(self, job: dict[str, str]) -> None:
        job_id, key = job["job_id"], job["key"]
        await self._redis.tell(job_id, "fetching")
        async with self._http.get(f"{SETTINGS['CDN_BASE_URL']}/{key}", headers=CDN_HEADERS) as got:
            assert got.status == 200
            raw = await got.read()
        photo = await self._cleaned(raw)
        public = f"{job_id}.jpg"
        headers = signed("PUT", public) | COPY_HEADERS
        async with self._http.put(f"{S3}/{public}", data=photo, headers=headers) as put:
            assert put.status == 200
        await self._redis.tell(job_id, "analysing")
        body = b"".join((self._before, base64.b64encode(photo), self._after))
        url = f"{SETTINGS['OPENAI_BASE_URL']}/chat/completions"
        async with self._http.post(url, data=body, headers=MODEL_HEADERS) as got:
            completion = json.loads(await got.read())
        found = json.loads(completion["choices"][0]["message"]["content"])
        await self._redis.tell(job_id, "advising")
        result = {
            "job_id": job_id,
            "items": [{**item, **ADVICE} for item in found["items"]],
            "usage": completion["usage"],
        }
        await self._redis.tell(job_id, "done", json.dumps(result, ensure_ascii=False))

    async def _cleaned(self, raw: bytes) -> bytes:
        child = await self._idle.get()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(REQUEST.pack(len(raw), 0, MOST_PIXELS, MODEL_SIDE_PIXELS))
            child.stdin.write(raw)
            await child.stdin.drain()
            head = await child.stdout.readexactly(1 + ANSWER.size)
            length, _, _ = ANSWER.unpack(head[1:])
            return await child.stdout.readexactly(length)
        finally:
            self._idle.put_nowait(child)


async def consumer(port: int) -> None:
    work = await FloorJob().open()
    channel = await open_channel()

    async def on_message(message: DeliveredMessage) -> None:
        await work.do(json.loads(message.body))
        assert isinstance(message.delivery, aiormq.spec.Basic.Deliver)
        await channel.basic_ack(message.delivery.delivery_tag or 0)

    await channel.basic_qos(prefetch_count=int(SETTINGS["CONSUMER_CONCURRENCY"]))
    await channel.basic_consume(QUEUE, on_message)

    async def ready(_request: web.BaseRequest) -> web.Response:
        return answer(200, {})

    await serve(ready, port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run({"gateway": gateway, "consumer": consumer}[sys.argv[1]](int(sys.argv[2])))
