"""A job API whose stream polls the job's status and tells what changed since it last looked.

So are many written: a loop that loads the job every so often, sends its state when it is not the last one,
and breaks after the end. What happens between two looks is never told, events have no id, and who comes back
is told the present. Some say so in their documentation (ComfyUI's job stream: "NOT a replayable log: events
carry no `id`, there is no `Last-Event-ID` resume"); an unknown job is often told as a message in the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from aiohttp import web

from tests.stream_conformance.description import Call, Description, StreamDescription
from tests.stream_conformance.foreign.work import ENDS, STAGE_SECONDS, Work

LOOK_SECONDS = 0.1
DESCRIPTION = Description(
    name="a stream that polls",
    create=(Call(request="POST /predictions"),),
    stream=StreamDescription(
        path="/predictions/{id}/stream",
        stage="status",
        stages=tuple(STAGE_SECONDS),
        ends=ENDS,
        progress="progress",
        patience_seconds=2,
    ),
)


class PolledServer:
    def __init__(self) -> None:
        self._jobs: dict[str, Work] = {}
        self.app = web.Application()
        self.app.router.add_post("/predictions", self._create)
        self.app.router.add_get("/predictions/{id}/stream", self._stream)

    async def _create(self, _: web.Request) -> web.Response:
        job = Work()
        self._jobs[job.id] = job
        job.start()
        return web.json_response({"id": job.id, "status": job.stage}, status=201)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client has left
            await self._tell(self._jobs.get(request.match_info["id"]), response)
        return response

    async def _tell(self, job: Work | None, response: web.StreamResponse) -> None:
        if job is None:
            await response.write(b'data: {"error": "not found"}\n\n')
            return
        told = None
        while told not in ENDS:
            if job.stage != told:
                told = job.stage
                percent = 100 if job.has_ended else 50
                data = json.dumps({"id": job.id, "status": told, "progress": percent})
                await response.write(f"data: {data}\n\n".encode())
            else:
                await asyncio.sleep(LOOK_SECONDS)
