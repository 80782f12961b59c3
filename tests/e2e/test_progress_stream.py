"""The stream across reconnects: nothing lost, nothing twice, never silence."""

from __future__ import annotations

from tests.e2e.client import TERMINAL, Client
from tests.e2e.photos import drawn

EVENTS = "/api/v1/waste/jobs/{}/events"


async def test_reconnect_in_mid_stream_goes_on_after_the_last_id(client: Client) -> None:
    """A client that comes back with the last id it saw gets exactly the rest."""
    job_id = await client.submit(drawn("JPEG"))
    seen = []
    async for event in client.events(job_id):
        seen.append(event)
        if len(seen) == 2:
            break
    rest = [event async for event in client.events(job_id, seen[-1].id)]
    whole = [event async for event in client.events(job_id)]
    assert [event.id for event in seen + rest] == [event.id for event in whole]
    assert rest[-1].name == "done"


async def test_reconnect_after_each_event_repeats_and_loses_nothing(client: Client) -> None:
    """Coming back after every single event still gives each event once."""
    job_id = await client.submit(drawn("JPEG"))
    seen = [await anext(client.events(job_id))]
    while seen[-1].name not in TERMINAL:
        seen.append(await anext(client.events(job_id, seen[-1].id)))
    assert [event.data["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].name == "done"


async def test_last_id_in_the_query_counts_as_the_header(client: Client) -> None:
    """`?last_event_id=` serves clients that cannot set a header."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    whole = [event async for event in client.events(job_id)]
    answer = await client.call("GET", f"{EVENTS.format(job_id)}?last_event_id={whole[-2].id}")
    assert answer.status == 200
    assert f"id: {whole[-1].id}\n" in answer.body
    assert f"id: {whole[-2].id}\n" not in answer.body


async def test_reconnect_after_the_terminal_event_gets_204(client: Client) -> None:
    """204 tells an EventSource that has seen the end to stop asking."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    last = [event async for event in client.events(job_id)][-1]
    answer = await client.call("GET", EVENTS.format(job_id), headers={"Last-Event-ID": last.id})
    assert (answer.status, answer.body) == (204, "")


async def test_unknown_last_id_gets_reset_and_the_end(client: Client) -> None:
    """An id that is not in the log gives a reset with the whole state, and the stream still ends once."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    for unknown in ("1.999.never", "nonsense", "0"):
        events = [event async for event in client.events(job_id, unknown)]
        assert events[0].name == "reset"
        assert {"job_id", "stage", "progress", "message", "seq", "attempt"} <= events[0].data.keys()
        assert [event.name for event in events if event.name in TERMINAL] == ["done"]
        assert events[-1].name == "done"


async def test_finished_job_replays_its_whole_story(client: Client) -> None:
    """Whoever comes after the end sees every event, and the stream closes by itself."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    first = [event async for event in client.events(job_id)]
    second = [event async for event in client.events(job_id)]
    assert [(event.id, event.data) for event in first] == [(event.id, event.data) for event in second]
