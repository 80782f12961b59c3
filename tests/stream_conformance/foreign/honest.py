"""A small server that keeps every rule, or tells one lie."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import uuid
from dataclasses import dataclass, field

from aiohttp import web

from tests.stream_conformance.description import Call, Description, StreamDescription
from tests.stream_conformance.foreign.work import ENDS, STAGE_SECONDS, Work

PING_SECONDS = 0.2
PLACES = 50  # for the server that counts them and frees none
DESCRIPTION = Description(
    name="an honest stream",
    session=(Call(request="POST /sessions"),),
    headers={"Authorization": "{token}"},
    create=(Call(request="POST /jobs"),),
    start=(Call(request="POST /jobs/{id}/start"),),
    cancel=(Call(request="POST /jobs/{id}/cancel"),),
    restart=("true",),
    stream=StreamDescription(
        path="/jobs/{id}/events",
        stage="stage",
        stages=("created", *STAGE_SECONDS),
        ends=ENDS,
        progress="percent",
        reset="reset",
        last_id_parameter="after",
        heartbeat_seconds=PING_SECONDS,
        patience_seconds=1.5,
    ),
)


@dataclass
class Told:
    """A job and all that was told of it."""

    work: Work
    owner: str
    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        return self.work.has_ended


class HonestServer:
    def __init__(self, lie: str = "") -> None:
        self._lie = lie
        self._jobs: dict[str, Told] = {}
        self._opened = itertools.count(1)
        self.app = web.Application()
        self.app.router.add_post("/sessions", self._session)
        self.app.router.add_post("/jobs", self._create)
        self.app.router.add_post("/jobs/{id}/start", self._start)
        self.app.router.add_post("/jobs/{id}/cancel", self._cancel)
        self.app.router.add_get("/jobs/{id}/events", self._stream)

    async def _session(self, _: web.Request) -> web.Response:
        return web.json_response({"token": uuid.uuid4().hex}, status=201)

    async def _create(self, request: web.Request) -> web.Response:
        job = Told(Work(), request.headers["Authorization"])
        self._jobs[job.work.id] = job
        job.work.on_stage = lambda stage: self._tell(job, stage)
        self._tell(job, job.work.stage)
        return web.json_response({"id": job.work.id}, status=201)

    async def _start(self, request: web.Request) -> web.Response:
        self._jobs[request.match_info["id"]].work.start()
        return web.json_response({}, status=202)

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._jobs[request.match_info["id"]]
        if job.has_ended and self._lie == "a cancel after the end is told":
            self._tell(job, "cancelled")
        job.work.cancel()
        return web.json_response({}, status=202)

    def _tell(self, job: Told, stage: str) -> None:
        percent = 100 if stage in ENDS else 10 * len(job.ids)
        if self._lie == "progress falls" and stage == "processing":
            percent = 1
        job.ids.append(uuid.uuid4().hex)
        data = json.dumps({"stage": stage, "percent": percent})
        job.texts.append(f"id: {job.ids[-1]}\nevent: told\ndata: {data}\n\n")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        job = self._jobs.get(request.match_info["id"])
        is_owner = job is not None and job.owner == request.headers["Authorization"]
        if job is None or not (is_owner or self._lie == "strangers may listen"):
            raise web.HTTPNotFound
        if self._lie == "places are never free" and next(self._opened) > PLACES:
            raise web.HTTPServiceUnavailable
        last_id = request.headers.get("Last-Event-ID", request.query.get("after"))
        if self._lie == "the query is not read":
            last_id = request.headers.get("Last-Event-ID")
        if job.has_ended and last_id == job.ids[-1]:
            return web.Response(status=204)
        while self._lie == "it opens with the next event" and job.work.stage == "created":
            await asyncio.sleep(0.01)
        response = web.StreamResponse(headers=self._headers())
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client has left
            await response.write(f"retry: {random.randint(2000, 4000)}\n\n".encode())
            await self._follow(job, await self._place_of(job, last_id, response), response)
        return response

    def _headers(self) -> dict[str, str]:
        return {
            "Content-Type": "text/plain" if self._lie == "it is plain text" else "text/event-stream",
            "Cache-Control": "max-age=60" if self._lie == "caches may keep it" else "no-store",
            "X-Accel-Buffering": "no",
        }

    async def _place_of(self, job: Told, last_id: str | None, response: web.StreamResponse) -> int:
        """How much of the story is known to this client; one with an unknown id is told the present."""
        if last_id is None or (last_id == "" and self._lie != "an empty id is unknown"):
            return 0
        if last_id in job.ids:
            return job.ids.index(last_id) + 1
        place = len(job.ids) - job.has_ended
        await response.write(job.texts[place - 1].replace("event: told", "event: reset").encode())
        return place

    async def _follow(self, job: Told, seen: int, response: web.StreamResponse) -> None:
        quiet_seconds = 0.0
        for look in itertools.count():
            missed = job.texts[seen:]
            if look == 1 and self._lie == "it is deaf while it opens":
                missed = []
                seen = len(job.texts)
            if missed:
                await response.write("".join(missed).encode())
                seen += len(missed)
                if job.has_ended and self._lie != "it stays open after the end":
                    if self._lie == "more comes after the end":
                        await response.write(job.texts[0].encode())
                    return
            quiet_seconds = 0.0 if missed else quiet_seconds + 0.01
            if quiet_seconds >= PING_SECONDS and self._lie != "it never beats":
                await response.write(b": ping\n\n")
                quiet_seconds = 0.0
            await asyncio.sleep(0.01)
