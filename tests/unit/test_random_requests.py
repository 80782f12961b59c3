"""Whatever is sent: no 5xx, one shape of refusal, nothing quoted back, and nothing of another's.

RANDOM_REQUESTS is the dose, RANDOM_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from tests.unit.conftest import Start
from tests.unit.gateway_node import Node
from tests.unit.test_gateway_connections import Answer, listening

REQUESTS = int(os.environ.get("RANDOM_REQUESTS", "1500"))
SEED = int(os.environ.get("RANDOM_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
CANARY = "canary-of-this-request"
ANSWER_SECONDS = 10
AT_ONCE = 8
# Without a number by which a call would wait, and without a length that is longer than what comes.
METHODS = (
    *("GET",) * 8, *("POST",) * 5, *("DELETE",) * 3, "HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT",
    "get", "GE\tT", "X" * 300,
)  # fmt: skip
VERSIONS = ("HTTP/1.1",) * 60 + ("HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "http/1.1", "HTTP/11", "")
PATHS = (
    "/api/v1/waste/analyze",
    "/upload-complete/{id}",
    "/api/v1/waste/jobs/{id}",
    "/api/v1/waste/jobs/{id}/events",
    "/api/v1/waste/jobs/{id}/cancel",
    "/api/v1/waste/jobs/{id}/feedback",
    "/api/v1/waste/jobs",
    "/api/v1/waste/events",
    "/api/v1/waste/advice",
    "/api/v1/sessions",
    "/api/v1/sessions/current",
    "/{id}",
    "/docs/../openapi.json",
    "//api/v1/waste/jobs/{id}",
    "/api/v1/waste/jobs/%2e%2e/{id}",
)
QUERIES = (
    "limit",
    "cursor",
    "last_event_id",
    "erase",
    "name",
    "category",
    "material",
    "condition",
    "locale",
    "x",
)
ODD = (
    "", "0", "-1", "51", "1e9", "NaN", "null", "true", "\u0660\u0661", "a" * 900, "%00", "%ff%fe",
    "%0d%0aX: y", "{}", "[]", "'", '"', "\\", "../../etc/passwd", "${x}", "<script>", "0.0.0", "*",
    "\ud55c\uae00", ";", "=", "\udcff",
)  # fmt: skip
FIELDS = (
    "Accept-Language", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Origin", "Range",
    "Sec-Fetch-Site", "Upgrade", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "traceparent",
)  # fmt: skip
FRAMING = (
    "Transfer-Encoding: chunked", "Transfer-Encoding: x", "Content-Length: 0", "Content-Length: x",
    "Host: other", "Expect: 200-ok", "Content-Encoding: gzip", " folded", "no colon", ": x",
    "X-\u00fc: \u00fc", "X-Nul: \0",
)  # fmt: skip
BODIES = (
    b"", b"{}", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 5000, b'{"a":' * 2000, b'{"content_type":1}',
    b'{"content_length":-1}', b'{"content_length":1e400}', b'{"question":"\\ud800"}', b'{"right":true}',
    b'{"right":false,"material":"film"}', b'{"locale":"ko","locale":"en"}', b"0" * 4000, b"a" * 20_000,
)  # fmt: skip


@dataclass(frozen=True)
class Victim:
    """What nobody else may come by."""

    job_id: str
    token: str
    owner: str
    last_id: str


class Stranger:
    """Has a session of its own, and makes requests, many of them about the victim's job."""

    def __init__(self, victim: Victim, token: str, seed: int) -> None:
        self._victim = victim
        self._own = token
        self._chance = random.Random(seed)
        self._ids: Sequence[Callable[[], str]] = (
            lambda: victim.job_id,
            victim.job_id.upper,
            lambda: f"{{{victim.job_id}}}",
            lambda: f"urn:uuid:{victim.job_id}",
            lambda: victim.job_id.replace("-", ""),
            lambda: victim.job_id + "%00",
            lambda: victim.job_id[:-1],
            lambda: str(uuid.UUID(int=self._chance.getrandbits(128))),
            lambda: self._chance.choice(ODD),
        )

    def request(self) -> bytes:
        pick = self._chance.choice
        path = pick(PATHS).replace("{id}", self._in_url(pick(self._ids)()))
        if self._chance.random() < 0.4:
            names = self._chance.sample(QUERIES, self._chance.randint(1, 4))
            path += "?" + "&".join(f"{name}={self._in_url(self._value())}" for name in names)
        body = pick(BODIES)
        fields = [f"Host: growbin.test\r\nX-Canary: {CANARY}", f"Content-Length: {len(body)}"]
        fields += [
            f"{name}: {self._value()}" for name in self._chance.sample(FIELDS, self._chance.randint(0, 4))
        ]
        if self._chance.random() < 0.5:
            name = pick(("growbin_session", "__Host-growbin_session", "growbin_session ", "Growbin_Session"))
            fields.append(f"Cookie: a={CANARY}; {name}={self._token()}; b")
        if self._chance.random() < 0.3:
            fields.append(
                f"Authorization: {pick(('Bearer', 'bearer', 'Basic', 'Bearer Bearer'))} {self._token()}"
            )
        if self._chance.random() < 0.05:
            fields.append(pick(FRAMING))
        line = " ".join((pick(METHODS), path, pick(VERSIONS))).rstrip()
        return "\r\n".join((line, *fields, "", "")).encode("utf-8", "surrogateescape") + body

    def _in_url(self, text: str) -> str:
        """Mostly as it may stand there."""
        return quote(text, safe="%", errors="surrogateescape") if self._chance.random() < 0.95 else text

    def _value(self) -> str:
        vector = json.dumps(["", {self._victim.job_id: self._victim.last_id}]).encode()
        return self._chance.choice(
            (
                *self._chance.sample(ODD, 3),
                CANARY,
                self._victim.job_id,
                self._victim.last_id,
                base64.urlsafe_b64encode(zlib.compress(vector)).decode(),
                base64.b64encode(self._chance.randbytes(30)).decode(),
            )
        )

    def _token(self) -> str:
        """Never the victim's own, and much that is like it."""
        token = self._victim.token
        like = (token[:-1], token + "x", token.swapcase(), f"{token[:-1]}%00", self._victim.owner)
        others = (*like, *self._chance.sample(ODD, 2), CANARY, "t" * 300, "\u00fc" * 20, "\udcff")
        return self._own if self._chance.random() < 0.6 else self._chance.choice(others)


async def read(reader: asyncio.StreamReader, is_head: bool) -> Answer | None:
    """One answer; None where there is only silence and the end."""
    async with asyncio.timeout(ANSWER_SECONDS):
        try:
            text = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        line, *fields = text.decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        length = 0 if is_head else int(headers.get("content-length", "0"))
        return Answer(int(line.split()[1]), headers, await reader.readexactly(length))


async def test_no_request_gets_a_5xx_an_echo_or_anything_of_anothers(start: Start) -> None:
    """Ids, cookies, tokens, heads, stream ids and bodies at random; the victim's job goes on as it was."""
    node = await start()
    victim = await victim_on(node)
    print(f"RANDOM_SEED={SEED} RANDOM_REQUESTS={REQUESTS}")
    seeds = random.Random(SEED)
    statuses: Counter[int] = Counter()

    async with listening(node) as dial:

        async def send(stranger: Stranger) -> None:
            request = stranger.request()
            wire = await dial()
            wire.send(request)
            answer = await read(wire.reader, request.startswith(b"HEAD "))
            await wire.close()
            if answer is None:
                statuses[0] += 1
                return
            statuses[answer.status] += 1
            said = (repr(answer.headers).encode() + answer.body).decode("utf-8", "replace")
            told = (request[:300], answer)
            assert answer.status < 500 or answer.status == 505, told
            assert answer.status < 400 or request.startswith(b"HEAD ") or answer.problem, told
            assert not any(it in said for it in (CANARY, victim.job_id, victim.token, victim.owner)), told

        async def several(seed: int) -> None:
            token = (await (await (await node.client()).post("/api/v1/sessions")).json())["token"]
            stranger = Stranger(victim, token, seed)
            for _ in range(REQUESTS // AT_ONCE):
                await send(stranger)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(several(seeds.getrandbits(32)))
    print(dict(sorted(statuses.items())))
    assert {200, 201, 204, 400, 401, 404, 405} <= set(statuses)
    state = await node.progress.state(uuid.UUID(victim.job_id))
    assert state is not None
    assert state.entry.id == victim.last_id


async def victim_on(node: Node) -> Victim:
    client = await node.client()
    job = await node.submitted(client)
    token = client.session.cookie_jar.filter_cookies(client.make_url("/"))["growbin_session"].value
    state = await node.progress.state(job.job_id)
    assert state is not None
    return Victim(str(job.job_id), token, job.owner, state.entry.id)
