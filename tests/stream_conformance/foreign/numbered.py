"""A job API that numbers its events and replays what is greater than the client's number, from its memory.

So do many that need no broker: a counter and a list of events in the process, `Last-Event-ID` read as a
number, every event above it sent again. (Documented cousins: "process-monotonic id", "replays everything
after that id".) It holds as long as the process does: a number of another job, or of the time before a
restart, is compared as if it were its own, and what is no number counts as none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict

from aiohttp import web

from tests.stream_conformance.description import Call, Description, StreamDescription
from tests.stream_conformance.foreign.work import ENDS, STAGE_SECONDS, Work

PING_SECONDS = 0.3
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def description(url: str) -> Description:
    """It restarts by a call."""
    return Description(
        name="a stream that replays by number",
        create=(Call(request="POST /jobs"),),
        start=(Call(request="POST /jobs/{id}/start"),),
        cancel=(Call(request="POST /jobs/{id}/cancel"),),
        restart=("curl", "--silent", "--show-error", "--fail", "--request", "POST", f"{url}/restart"),
        stream=StreamDescription(
            path="/jobs/{id}/events",
            stages=("created", *STAGE_SECONDS),
            ends=ENDS,
            progress="percent",
            heartbeat_seconds=PING_SECONDS,
            patience_seconds=2,
        ),
    )


class NumberedServer:
    def __init__(self) -> None:
        self._jobs: dict[str, Work] = {}
        self._memory: defaultdict[str, list[str]] = defaultdict(list)
        self._life = 1
        self.app = web.Application()
        self.app.router.add_post("/jobs", self._create)
        self.app.router.add_post("/jobs/{id}/start", self._start)
        self.app.router.add_post("/jobs/{id}/cancel", self._cancel)
        self.app.router.add_get("/jobs/{id}/events", self._stream)
        self.app.router.add_post("/restart", self._restart)

    async def _create(self, _: web.Request) -> web.Response:
        job = Work()
        self._jobs[job.id] = job
        job.on_stage = lambda stage: self._tell(job, stage)
        self._tell(job, job.stage)
        return web.json_response({"id": job.id}, status=201)

    async def _start(self, request: web.Request) -> web.Response:
        self._jobs[request.match_info["id"]].start()
        return web.json_response({}, status=202)

    async def _cancel(self, request: web.Request) -> web.Response:
        self._jobs[request.match_info["id"]].cancel()
        return web.json_response({}, status=202)

    async def _restart(self, _: web.Request) -> web.Response:
        """What was in memory is gone; the worker and its jobs are elsewhere, and go on."""
        self._memory.clear()
        self._life += 1
        return web.json_response({})

    def _tell(self, job: Work, stage: str) -> None:
        percent = 100 if job.has_ended else 50
        events = self._memory[job.id]
        data = json.dumps({"percent": percent})
        events.append(f"id: {len(events) + 1}\nevent: {stage}\ndata: {data}\n\n")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        job = self._jobs.get(request.match_info["id"])
        if job is None:
            raise web.HTTPNotFound
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        last_id = request.headers.get("Last-Event-ID", "")
        with contextlib.suppress(ConnectionError):  # the client has left
            await response.write(b"retry: 3000\n\n")
            await self._replay(job, int(last_id) if last_id.isdecimal() else 0, response)
        return response

    async def _replay(self, job: Work, seen: int, response: web.StreamResponse) -> None:
        life, quiet_seconds = self._life, 0.0
        while life == self._life:
            missed = self._memory[job.id][seen:]
            if missed:
                await response.write("".join(missed).encode())
                seen += len(missed)
                if job.has_ended:
                    return
            quiet_seconds = 0.0 if missed else quiet_seconds + 0.01
            if quiet_seconds >= PING_SECONDS:
                await response.write(b": ping\n\n")
                quiet_seconds = 0.0
            await asyncio.sleep(0.01)
