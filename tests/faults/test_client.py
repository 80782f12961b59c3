"""The client of the fault tests asks what a good client would ask."""

from __future__ import annotations

from aiohttp import web

from tests.faults.client import Client
from tests.faults.instruments.oracle import SESSION_STREAM, Event, Ledger, Stream
from tests.faults.photos import photo_for
from tests.loopback import served


async def test_ended_job_is_asked_for_with_its_own_last_id_though_its_session_spoke_first() -> None:
    """A session's id means nothing to a job's stream, which would rightly reset its client."""
    given: list[str] = []

    async def events(request: web.Request) -> web.Response:
        given.append(request.headers["Last-Event-ID"])
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/api/v1/waste/jobs/{job_id}/events", events)
    async with served(app) as url:
        ledger = Ledger()
        client = Client(ledger, lambda: [url], photo_for, silence_seconds=30)
        job = ledger.track("one", "token")
        job.job_id = "one"
        job.streams = [
            Stream(SESSION_STREAM, events=[Event(0, "vector", "done", {})]),
            Stream("stream", events=[Event(0, "e.1.x", "done", {})]),
        ]
        status = await client.ask_again(job)
        await client.close()
    assert (status, given) == (204, ["e.1.x"])
