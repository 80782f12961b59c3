"""One stream for all of a session's jobs: each job's promise holds in it."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from contextlib import AbstractAsyncContextManager
from uuid import UUID

import pytest

from growbin.gateway.session_id import Vector
from growbin.gateway.session_watch import MAKING_SECONDS, SessionWatch
from growbin.gateway.slow_looks import SlowLooks
from growbin.job import RECENT_JOBS, Failure, Job, JobState, LogEntry, Stage
from growbin.ports import Started
from tests.jobs import upload as job_upload
from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node, problem

FAR_MS = 2**46  # a deadline that no test lives to see
FAILURE = Failure(code="internal", detail="", retryable=True)


async def finish(node: Node, job: Job) -> None:
    start = await node.progress.begin(job, alone=True, call_id="test")
    assert isinstance(start, Started)
    await node.progress.announce(job, start.attempt, Stage.FETCHING)
    await node.progress.finish(job, start.attempt, FAILURE)


def opened(
    node: Node, owner: str, last_id: str | None = None, slow_look_seconds: float = 60
) -> AbstractAsyncContextManager[SessionWatch]:
    looks = SlowLooks(node.hub, node.records, slow_look_seconds)
    return SessionWatch.open(node.hub, node.records, node.progress, looks, owner, last_id)


async def taken(watch: SessionWatch, quiet_seconds: float = 0.05) -> list[LogEntry]:
    """What comes, until nothing more comes for a while."""
    entries, news = list[LogEntry](), asyncio.Event()
    watch.on_news = news.set
    while True:
        while (entry := watch.take()) is not None:
            entries.append(entry)
        news.clear()
        try:
            async with asyncio.timeout(quiet_seconds):
                await news.wait()
        except TimeoutError:
            for _ in range(100):  # the while may be over because this process was held up in the middle
                await asyncio.sleep(0)
            if not news.is_set():
                return entries


def names(entries: list[LogEntry]) -> list[str]:
    return [entry.event for entry in entries]


def told(entries: list[LogEntry]) -> dict[str, list[str]]:
    by_job: dict[str, list[str]] = {}
    for entry in entries:
        data = json.loads(entry.data)
        by_job.setdefault(data["job_id"], []).append(data["stage"])
    return by_job


STORY = ["awaiting_upload", "queued", "fetching", "failed"]


async def test_two_jobs_are_told_in_one_stream(node: Node, client: Client) -> None:
    """Each job's events come once and in order, whatever the other does."""
    jobs = [await node.submitted(client) for _ in range(2)]
    async with opened(node, jobs[0].owner) as watch:
        for job in jobs:
            await finish(node, job)
        assert told(await taken(watch)) == {str(job.job_id): STORY for job in jobs}


async def test_every_cut_point_resumes_exactly_for_every_job(node: Node, client: Client) -> None:
    """Whatever event was the last, a new stream brings what follows it, of each job, and nothing twice."""
    jobs = [await node.submitted(client) for _ in range(3)]
    owner = jobs[0].owner
    async with opened(node, owner) as watch:
        for job in jobs:
            await finish(node, job)
        whole = await taken(watch)
    assert len(whole) == 12
    for index, entry in enumerate(whole):
        async with opened(node, owner, entry.id) as watch:
            rest = await taken(watch)
        both = told(whole[: index + 1] + rest)
        assert both == {str(job.job_id): STORY for job in jobs}


async def test_new_job_joins_an_open_stream(node: Node, client: Client) -> None:
    """A job made after the stream began is told from its start."""
    first = await node.submitted(client)
    async with opened(node, first.owner) as watch:
        await taken(watch)
        second = await node.submitted(client)
        await finish(node, second)
        assert told(await taken(watch))[str(second.job_id)] == STORY


async def test_new_job_that_nobody_told_of_joins_at_the_next_slow_look(node: Node, client: Client) -> None:
    """A gateway of another version made it, and tells no streams."""
    first = await node.submitted(client)
    async with opened(node, first.owner, slow_look_seconds=0.1) as watch:
        await taken(watch)
        node.feed.sessions.clear()
        second = await node.submitted(client)
        assert list(told(await taken(watch, 3.0))) == [str(second.job_id)]


async def test_job_whose_log_was_late_joins_an_open_stream(node: Node, client: Client) -> None:
    """Redis was away between record and log: once the repeated call has written it, the stream tells it."""
    first = await node.submitted(client)
    repeatable = {"Idempotency-Key": "once"}
    async with opened(node, first.owner) as watch:
        node.progress.is_away = True
        answer = await client.post("/api/v1/waste/analyze", headers=repeatable)
        await problem(answer, 503, "unavailable")
        node.progress.is_away = False
        await taken(watch)
        answer = await client.post("/api/v1/waste/analyze", headers=repeatable)
        job_id = (await answer.json())["job_id"]
        assert told(await taken(watch)) == {job_id: ["awaiting_upload"]}


async def test_job_whose_log_was_late_is_told_though_it_was_looked_for_before(
    node: Node, client: Client
) -> None:
    """The list was read in between, by a stream that is open, by one that began then, and by one that goes on
    elsewhere: each tells the job from its first event on."""
    first = await node.submitted(client)
    repeatable = {"Idempotency-Key": "once"}
    async with opened(node, first.owner) as watch, opened(node, first.owner) as left:
        await taken(watch)
        await taken(left)
        node.progress.is_away = True
        answer = await client.post("/api/v1/waste/analyze", headers=repeatable)
        await problem(answer, 503, "unavailable")
        node.progress.is_away = False
        node.hub.on_loss()
        await finish(node, first)
        last = (await taken(left))[-1]
        async with opened(node, first.owner, last.id) as gone_on, opened(node, first.owner) as begun:
            assert await taken(gone_on) == await taken(begun) == []
            assert set(told(await taken(watch))) == {str(first.job_id)}
            answer = await client.post("/api/v1/waste/analyze", headers=repeatable)
            job_id = (await answer.json())["job_id"]
            for stream in (watch, gone_on, begun):
                assert told(await taken(stream)) == {job_id: ["awaiting_upload"]}
        async with opened(node, first.owner, last.id) as later:
            assert told(await taken(later)) == {job_id: ["awaiting_upload"]}


async def test_job_whose_log_came_while_the_live_side_was_deaf_joins_after_the_loss(
    node: Node, client: Client
) -> None:
    """It was looked for before, and the word of its log was lost."""
    first = await node.submitted(client)
    repeatable = {"Idempotency-Key": "once"}
    node.progress.is_away = True
    answer = await client.post("/api/v1/waste/analyze", headers=repeatable)
    await problem(answer, 503, "unavailable")
    node.progress.is_away = False
    async with opened(node, first.owner) as watch:
        await taken(watch)
        node.feed.sessions.clear()
        answer = await client.post("/api/v1/waste/analyze", headers=repeatable)
        node.hub.on_loss()
        assert told(await taken(watch)) == {(await answer.json())["job_id"]: ["awaiting_upload"]}


async def test_tickets_that_can_never_be_uploaded_leave_the_id(node: Node, client: Client) -> None:
    """Of an old one neither log nor record is left; one that has a record, or may still be made, stays."""
    first = await node.submitted(client)
    for number in range(20):
        node.records.put_first(first.owner, UUID(int=number))
    unopened = job_upload(owner=first.owner)  # its log was lost
    await node.records.create(unopened, None)
    node.records.put_first(first.owner, unopened.job_id)
    second = await node.submitted(client)
    async with opened(node, first.owner) as watch:
        await taken(watch, MAKING_SECONDS + 0.2)
        young = UUID(int=99)
        node.records.put_first(first.owner, young)
        node.hub.on_session_job(first.owner, young)
        await taken(watch)
        await finish(node, second)
        vector = Vector.decode((await taken(watch))[-1].id)
        assert vector is not None
        assert vector.last_ids.keys() == {young, unopened.job_id, first.job_id}


async def test_job_that_was_given_up_is_told_once_it_is_made_after_all(node: Node, client: Client) -> None:
    """Its gateway was frozen in between."""
    first = await node.submitted(client)
    late = job_upload(owner=first.owner)
    node.records.put_first(first.owner, late.job_id)
    async with opened(node, first.owner) as watch:
        await taken(watch, MAKING_SECONDS + 0.2)
        await node.records.create(late, None)
        await node.progress.open_job(late, FAR_MS)
        node.hub.on_session_job(first.owner, late.job_id)
        assert told(await taken(watch)) == {str(late.job_id): ["awaiting_upload"]}


async def test_list_that_was_set_back_resets_what_has_ended(node: Node, client: Client) -> None:
    """Nobody can say which of the ended jobs the client has heard of: none is told as if it were new, and the
    one that goes on goes on where the client was."""
    ended, running = [await node.submitted(client) for _ in range(2)]
    async with opened(node, ended.owner) as watch:
        await finish(node, ended)
        await node.submitted(client)
        last = (await taken(watch))[-1]
    node.records.forget_newest(ended.owner)
    await finish(node, running)
    async with opened(node, ended.owner, last.id) as watch:
        heard = [(entry.event, json.loads(entry.data)["job_id"]) for entry in await taken(watch)]
    assert [event for event, job_id in heard if job_id == str(ended.job_id)] == ["reset", "failed"]
    assert [event for event, job_id in heard if job_id == str(running.job_id)] == ["progress", "failed"]


@pytest.mark.parametrize("is_list_set_back", [False, True])
async def test_job_that_was_set_back_after_its_end_is_told_again(
    node: Node, client: Client, is_list_set_back: bool
) -> None:
    """Its end was lost with Redis' last second: it goes on as if it had not been, after a `reset`."""
    job = await node.submitted(client)
    async with opened(node, job.owner) as watch:
        before = node.progress.saved(job.job_id)
        await finish(node, job)
        if is_list_set_back:
            await node.submitted(client)
        last = (await taken(watch))[-1]
    node.progress.set_back(job.job_id, before)
    if is_list_set_back:
        lost = node.records.forget_newest(job.owner)
        await node.records.erase(lost)
        node.progress.forget(lost)
    async with opened(node, job.owner, last.id) as watch:
        assert names(await taken(watch)) == ["reset"]
        await finish(node, job)
        assert names(await taken(watch)) == ["progress", "failed"]


async def test_job_that_is_listed_no_more_is_told_to_its_end(node: Node, client: Client) -> None:
    """A list that was set back does not know it; the client's id does."""
    first, second = [await node.submitted(client) for _ in range(2)]
    async with opened(node, first.owner) as watch:
        last = (await taken(watch))[-1]
    node.records.forget_newest(first.owner)
    await finish(node, second)
    async with opened(node, first.owner, last.id) as watch:
        assert told(await taken(watch)) == {str(second.job_id): ["fetching", "failed"]}


async def lose_newest(node: Node, job: Job) -> None:
    """List, record and log are gone, as with a Redis that was set back; the queue still has its message."""
    node.records.forget_newest(job.owner)
    await node.records.erase(job.job_id)
    node.progress.forget(job.job_id)


async def test_job_that_redis_has_lost_is_told_anew_once_its_delivery_brings_it_back(
    node: Node, client: Client
) -> None:
    """A client that heard its first events is reset; its id knows the job meanwhile."""
    first, second = [await node.submitted(client) for _ in range(2)]
    async with opened(node, first.owner) as watch:
        last = (await taken(watch))[-1]
    await lose_newest(node, second)
    async with opened(node, first.owner, last.id) as watch:
        assert names(await taken(watch, MAKING_SECONDS + 0.2)) == []
        await finish(node, first)
        last = (await taken(watch))[-1]
        await finish(node, second)
        heard = await taken(watch)
    assert told(heard) == {str(second.job_id): ["failed", "failed"]}
    assert names(heard) == ["reset", "failed"]
    async with opened(node, first.owner, last.id) as watch:
        assert names(await taken(watch)) == ["reset", "failed"]


async def test_client_that_waits_for_a_lost_job_is_not_told_that_this_was_all(
    node: Node, client: Client
) -> None:
    """204 would stop it for good."""
    job = await node.submitted(client)
    async with opened(node, job.owner) as watch:
        last = (await taken(watch))[-1]
    await lose_newest(node, job)
    async with opened(node, job.owner, last.id) as watch:
        assert not watch.nothing_missed
        await finish(node, job)
        assert names(await taken(watch)) == ["reset", "failed"]


async def test_open_stream_resets_what_was_set_back_together_with_the_newest_job(
    node: Node, client: Client
) -> None:
    """The list that is left looks new as a whole; what has ended is looked at nevertheless."""
    job = await node.submitted(client)
    async with opened(node, job.owner) as watch:
        before = node.progress.saved(job.job_id)
        await finish(node, job)
        newest = await node.submitted(client)
        await taken(watch)
        node.progress.set_back(job.job_id, before)
        await lose_newest(node, newest)
        node.hub.on_loss()
        assert told(await taken(watch)) == {str(job.job_id): ["queued"]}
        await finish(node, job)
        assert told(await taken(watch)) == {str(job.job_id): ["fetching", "failed"]}


async def test_erased_job_that_a_redis_set_back_brings_back_is_told_on(node: Node, client: Client) -> None:
    """Its client came back in between, when only the tombstone was there."""
    job = await node.submitted(client)
    async with opened(node, job.owner) as watch:
        last = (await taken(watch))[-1]
    before = node.progress.saved(job.job_id)
    await node.progress.erase(job.job_id, job.owner)
    async with opened(node, job.owner, last.id) as watch:
        assert names(await taken(watch)) == []
        node.progress.set_back(job.job_id, before)
        await finish(node, job)
        node.hub.on_loss()
        assert told(await taken(watch)) == {str(job.job_id): ["fetching", "failed"]}


async def test_word_of_a_job_that_comes_while_it_is_looked_at_is_not_lost(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is driven again just after its old state was read."""
    job = await node.submitted(client)
    async with opened(node, job.owner) as watch:
        await finish(node, job)
        await taken(watch)
        read, again = node.progress.state, list[Job]()

        async def state(job_id: UUID) -> JobState | None:
            found = await read(job_id)
            if job_id == job.job_id and not again:
                again.append(await node.progress.reopen(job, 300))
            return found

        monkeypatch.setattr(node.progress, "state", state)
        node.hub.on_loss()
        assert names(await taken(watch)) == ["reset"]
        await finish(node, again[0])
        assert names(await taken(watch)) == ["progress", "failed"]


async def test_full_list_that_was_set_back_is_known_by_its_newest_job(node: Node, client: Client) -> None:
    """It may have been pushed from the list; where Redis knows nothing of it, what is listed is no news."""
    pushed, lost = await node.submitted(client), UUID(int=RECENT_JOBS)
    node.records.forget_newest(pushed.owner)
    job = await node.submitted(client)
    await finish(node, job)
    for number in range(RECENT_JOBS - 1):
        node.records.put_first(job.owner, UUID(int=number))
    for newest, heard in ((pushed.job_id, ["progress"] * 3 + ["failed"]), (lost, ["reset", "failed"])):
        async with opened(node, job.owner, Vector(newest, {}).encode()) as watch:
            assert names(await taken(watch)) == heard


async def test_run_that_was_only_read_from_the_log_is_not_told_twice(node: Node, client: Client) -> None:
    """It failed and was driven again while the live side was deaf: the end of its new run is in the id."""
    job = await node.submitted(client)
    await node.submitted(client)
    async with opened(node, job.owner) as watch:
        await taken(watch)
        node.feed.is_away = True
        await finish(node, job)
        again = await node.progress.reopen(job, 300)
        node.feed.is_away = False
        node.hub.on_loss()
        assert names(await taken(watch)) == ["reset"]
        await finish(node, again)
        last = (await taken(watch))[-1]
    assert last.event == "failed"
    async with opened(node, job.owner, last.id) as watch:
        assert names(await taken(watch)) == []


async def test_job_that_ended_before_it_was_looked_at_is_told_once(node: Node, client: Client) -> None:
    """Its whole story comes in one piece: already the id of its end knows it."""
    first = await node.submitted(client)
    async with opened(node, first.owner) as watch:
        await taken(watch)
        heard = list[LogEntry]()
        watch.on_news = lambda: heard.extend(iter(watch.take, None))
        node.feed.sessions.clear()
        second = await node.submitted(client)
        await finish(node, second)
        watch.look()
        while len(heard) < len(STORY):
            await asyncio.sleep(0)
    async with opened(node, first.owner, heard[-1].id) as watch:
        assert await taken(watch) == []


async def test_gateway_that_stops_ends_a_stream_without_jobs_at_once(node: Node, client: Client) -> None:
    """The last job has ended and the stream waits for another: it is told to come back elsewhere."""
    job = await node.submitted(client)
    async with opened(node, job.owner) as watch:
        await finish(node, job)
        await taken(watch)
        assert not watch.is_over
        await node.hub.drain()
        assert watch.is_over
        assert not watch.has_ended


async def test_job_driven_again_appears_in_the_open_stream(node: Node, client: Client) -> None:
    """Its end was told: `reset` begins the new run, and every id of the stream is good for what follows."""
    job, other = [await node.submitted(client) for _ in range(2)]
    async with opened(node, job.owner) as watch:
        await finish(node, job)
        before = await taken(watch)
        again = await node.progress.reopen(job, 300)
        after = await taken(watch)
        await finish(node, again)
        after += await taken(watch)
    assert names(after) == ["reset", "progress", "failed"]
    for index, entry in enumerate(after):
        async with opened(node, job.owner, entry.id) as watch:
            assert names(await taken(watch)) == names(after[index + 1 :])
    async with opened(node, job.owner, before[-1].id) as watch:
        assert names(await taken(watch)) == ["reset", "failed"]
    assert str(other.job_id) not in told(after)


async def test_job_driven_again_before_its_end_was_taken_is_told_after_it(node: Node, client: Client) -> None:
    """A client that reads slowly still hears of both runs, one after the other."""
    job, _ = [await node.submitted(client) for _ in range(2)]
    async with opened(node, job.owner) as watch:
        await finish(node, job)
        await node.progress.reopen(job, 300)
        await asyncio.sleep(0.05)
        heard = [entry for entry in await taken(watch) if str(job.job_id) in entry.data]
    assert names(heard) == ["progress", "progress", "progress", "failed", "reset"]


async def test_job_driven_again_while_the_live_side_was_deaf_appears(node: Node, client: Client) -> None:
    """The word of it was lost: after the loss the stream looks itself."""
    job, _ = [await node.submitted(client) for _ in range(2)]
    async with opened(node, job.owner) as watch:
        await finish(node, job)
        await taken(watch)
        node.feed.is_away = True
        await node.progress.reopen(job, 300)
        node.feed.is_away = False
        node.hub.on_loss()
        assert names(await taken(watch)) == ["reset"]


async def test_job_driven_again_while_the_client_was_away_is_told_once(node: Node, client: Client) -> None:
    """The next stream begins with its reset; the one after that has heard of it."""
    job, _ = [await node.submitted(client) for _ in range(2)]
    async with opened(node, job.owner) as watch:
        await finish(node, job)
        last = (await taken(watch))[-1]
    await finish(node, await node.progress.reopen(job, 300))
    async with opened(node, job.owner, last.id) as watch:
        entries = await taken(watch)
        assert names(entries) == ["reset", "failed"]
    async with opened(node, job.owner, entries[-1].id) as watch:
        assert await taken(watch) == []


async def test_erased_job_leaves_the_stream_of_the_others_open(node: Node, client: Client) -> None:
    """It is told as cancelled, and nothing follows; the other job's story goes on."""
    job, other = [await node.submitted(client) for _ in range(2)]
    async with opened(node, job.owner) as watch:
        await taken(watch)
        await node.progress.erase(job.job_id, job.owner)
        assert names(await taken(watch)) == ["cancelled"]
        await finish(node, other)
        assert names(await taken(watch)) == ["progress", "failed"]
        assert not watch.is_over


async def test_job_made_and_ended_while_the_client_was_away_is_told(node: Node, client: Client) -> None:
    """A job that the client never heard of is new to it, even when it has ended since."""
    first = await node.submitted(client)
    async with opened(node, first.owner) as watch:
        last = (await taken(watch))[-1]
    second = await node.submitted(client)
    await finish(node, second)
    async with opened(node, first.owner, last.id) as watch:
        assert told(await taken(watch)) == {str(second.job_id): STORY}


async def test_id_that_is_not_ours_resets_every_job(node: Node, client: Client) -> None:
    """A client with a foreign id hears of each job by a reset, of ended ones with their end."""
    ended, running = [await node.submitted(client) for _ in range(2)]
    await finish(node, ended)
    async with opened(node, ended.owner, "garbage") as watch:
        entries = await taken(watch)
    heard = {(json.loads(entry.data)["job_id"], entry.event) for entry in entries}
    assert heard == {
        (str(ended.job_id), "reset"),
        (str(ended.job_id), "failed"),
        (str(running.job_id), "reset"),
    }


async def test_ended_jobs_are_not_told_to_a_newcomer(node: Node, client: Client) -> None:
    """Without an id only unfinished jobs are told; when there is none the answer is 204."""
    job = await node.submitted(client)
    await finish(node, job)
    assert (await client.get("/api/v1/waste/events")).status == 204


async def test_stream_over_http_resumes_with_its_opaque_id(node: Node, client: Client) -> None:
    """The id goes through the header and back, and a stopping gateway ends the stream cleanly."""
    job = await node.submitted(client)
    response = await client.get("/api/v1/waste/events")
    assert response.status == 200
    await asyncio.sleep(0.1)
    await node.hub.drain()
    text = await response.text()
    ids = [line[4:] for line in text.splitlines() if line.startswith("id: ")]
    assert len(ids) == 2
    vector = Vector.decode(ids[0])
    assert vector is not None
    assert vector.newest == job.job_id


async def test_stranger_has_no_session_stream(node: Node, start: Start) -> None:
    """Without a session there is nothing to stream."""
    await problem(await (await node.client()).get("/api/v1/waste/events"), 404, "not_found")


def packed(text: str) -> str:
    return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode()


NEST = packed("[" * 30_000)  # fits into a vector's length, and goes deeper than Python's stack


async def test_nest_of_lists_as_an_id_is_a_newcomers_stream(node: Node, client: Client) -> None:
    """It unpacks to little and nests deep: answered like any id that is not ours."""
    await node.submitted(client)
    response = await client.get("/api/v1/waste/events", headers={"Last-Event-ID": NEST})
    assert response.status == 200
    await node.hub.drain()
    assert "event: reset" in await response.text()


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "x",
        "AAAA",
        "!!!!",
        "e" * 9000,
        NEST,
        packed("NaN"),
        packed('["", []]'),
        packed('["", {"x": "y"}]'),
    ],
)
def test_id_that_is_not_ours_is_no_vector(garbage: str) -> None:
    """Whatever a stranger sends, it is a newcomer's stream."""
    assert Vector.decode(garbage) is None


def test_vector_of_a_hundred_jobs_fits_in_a_header() -> None:
    """The id of the largest stream stays below what servers accept for a header."""
    jobs = {
        UUID(int=0x1234567890ABCDEF << 64 | n * 0x9E3779B97F4A7C15): f"{n:012x}.12.{n:08x}"
        for n in range(100)
    }
    vector = Vector(next(iter(jobs)), jobs)
    assert len(vector.encode()) < 8000
    assert Vector.decode(vector.encode()) == vector
