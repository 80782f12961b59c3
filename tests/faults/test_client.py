"""The client of the fault tests asks what a good client would ask."""

from __future__ import annotations

import asyncio
import time

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


async def test_only_jobs_whose_acceptance_was_lost_are_no_longer_heard() -> None:
    """They are tickets again; a process counts its open streams when nobody else is left."""
    opened = {"kept": asyncio.Event(), "lost": asyncio.Event()}

    async def events(request: web.Request) -> web.StreamResponse:
        name = request.match_info["job_id"]
        stream = web.StreamResponse()
        await stream.prepare(request)
        opened[name].set()
        await asyncio.Event().wait()
        return stream

    app = web.Application()
    app.router.add_get("/api/v1/waste/jobs/{job_id}/events", events)
    async with served(app) as url:
        ledger = Ledger()
        client = Client(ledger, lambda: [url], photo_for, silence_seconds=30)
        for name, is_open in opened.items():
            job = ledger.track(name, "token")
            job.job_id = name
            job.accept()
            client.watch(job)
            await is_open.wait()
        ledger.jobs["lost"].destroyed.append((time.monotonic() - 1, time.monotonic()))
        assert [job.is_acceptance_forgotten for job in ledger.jobs.values()] == [False, True]
        await client.stop_listening()
        assert client.open_at[url] == 1
        await client.close()
        assert client.open_at[url] == 0
