"""What a session's stream tells where Redis, a look or a client has lost something."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest

from growbin.gateway.session_watch import MAKING_SECONDS
from growbin.job import RECENT_JOBS, JobState
from tests.jobs import upload as job_upload
from tests.unit.gateway_node import Client, Node
from tests.unit.test_session_stream import FAR_MS, finish, lose_newest, names, opened, taken, told


async def test_job_that_is_listed_twice_has_no_other_told_again(node: Node, client: Client) -> None:
    """A ticket's call to Redis that lost its answer is made once more, and lists its job once more."""
    first = await node.submitted(client)
    async with opened(node, first.owner) as watch:
        await finish(node, first)
        last = (await taken(watch))[-1]
    second = await node.submitted(client)
    node.records._recent[first.owner].insert(0, second.job_id)
    async with opened(node, first.owner, last.id) as watch:
        assert list(told(await taken(watch))) == [str(second.job_id)]


async def test_job_that_a_delivery_brings_back_after_its_end_was_told_begins_with_a_reset(
    node: Node, client: Client
) -> None:
    """Redis and the consumer lost it together, and the broker delivers it again."""
    _, job = [await node.submitted(client) for _ in range(2)]
    async with opened(node, job.owner) as watch:
        await finish(node, job)
        last = (await taken(watch))[-1]
    await lose_newest(node, job)
    async with opened(node, job.owner, last.id) as watch:
        await taken(watch)
        await finish(node, job)
        heard = [entry for entry in await taken(watch) if str(job.job_id) in entry.data]
    assert names(heard)[0] == "reset"


async def test_loss_while_a_stream_begins_has_what_has_ended_looked_at(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end was read before Redis lost it."""
    _, job = [await node.submitted(client) for _ in range(2)]
    async with opened(node, job.owner) as watch:
        before = node.progress.saved(job.job_id)
        await finish(node, job)
        last = (await taken(watch))[-1]
    read = node.progress.state

    async def state(job_id: UUID) -> JobState | None:
        found = await read(job_id)
        if job_id == job.job_id:
            node.progress.set_back(job.job_id, before)
            node.hub.on_loss()
            monkeypatch.undo()
        return found

    monkeypatch.setattr(node.progress, "state", state)
    async with opened(node, job.owner, last.id) as watch:
        assert told(await taken(watch)) == {str(job.job_id): ["queued"]}


async def test_job_of_which_only_the_log_is_lost_is_told_by_its_record(node: Node, client: Client) -> None:
    """Whoever looks, mends: to 204, or to wait for a delivery that may have been, would be no end."""
    job, other = [await node.submitted(client) for _ in range(2)]
    async with opened(node, job.owner) as watch:
        last = (await taken(watch))[-1]
    await finish(node, other)
    node.progress.forget(job.job_id)
    async with opened(node, job.owner) as watch:
        assert not watch.nothing_missed
        assert told(await taken(watch)) == {str(job.job_id): ["queued"]}
    node.progress.forget(job.job_id)
    async with opened(node, job.owner, last.id) as watch:
        await finish(node, job)
        heard = [entry for entry in await taken(watch) if str(job.job_id) in entry.data]
    assert (names(heard)[0], names(heard)[-1]) == ("reset", "failed")


async def test_ticket_that_ran_out_while_its_client_slept_holds_it_no_longer(
    node: Node, client: Client
) -> None:
    """Neither log nor record is left after an hour and a quarter."""
    job_id = UUID((await node.ticket(client))["job_id"])
    owner = node.records.uploads[job_id].owner
    async with opened(node, owner) as watch:
        last = (await taken(watch))[-1]
    node.progress.forget(job_id)
    async with opened(node, owner, last.id) as watch:
        assert not watch.nothing_missed  # Redis lost the log alone: a delivery may bring it back
    await node.records.erase(job_id)
    async with opened(node, owner, last.id) as watch:
        assert watch.nothing_missed


async def test_accepted_job_of_which_nothing_is_left_is_waited_for(node: Node, client: Client) -> None:
    """It stands on the list, where the sessions' server has not lost what the jobs' server has."""
    job = await node.submitted(client)
    async with opened(node, job.owner) as watch:
        last = (await taken(watch))[-1]
    node.progress.forget(job.job_id)
    await node.records.erase(job.job_id)
    async with opened(node, job.owner, last.id) as watch:
        assert not watch.nothing_missed
        await finish(node, job)
        assert names(await taken(watch)) == ["reset", "failed"]


async def test_bug_in_a_look_ends_the_stream_rather_than_leave_it_deaf(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a job's stream whose log cannot be read."""
    first = await node.submitted(client)

    async def recent(owner: str, limit: int) -> Sequence[UUID]:
        raise ZeroDivisionError

    async with opened(node, first.owner) as watch:
        await taken(watch)
        with monkeypatch.context() as patch:
            patch.setattr(node.records, "recent", recent)
            node.hub.on_loss()
            await taken(watch)
        second = await node.submitted(client)
        assert watch.is_over or str(second.job_id) in told(await taken(watch))


async def test_job_that_was_given_up_when_due_is_told_to_its_end_later(node: Node, client: Client) -> None:
    """Redis lost its log; the delivery comes after its deadline, while the client is away."""
    job = await node.submitted(client)
    other = await node.submitted(client)
    async with opened(node, job.owner) as watch:
        await taken(watch)
        node.progress.forget(job.job_id)
        topic = node.hub._topics[job.job_id]
        assert topic.expiry is not None
        topic.expiry.cancel()
        topic.expiry = None
        node.hub._expire_now(job.job_id)
        await taken(watch)
        await finish(node, other)
        last = (await taken(watch))[-1]
    await finish(node, job)
    async with opened(node, job.owner, last.id) as watch:
        assert names(await taken(watch)) == ["reset", "failed"]


async def test_old_ticket_in_a_list_that_was_set_back_holds_no_client(node: Node, client: Client) -> None:
    """Nobody waits for a ticket that ran out long ago: when all has been told again, that was all."""
    job = await node.submitted(client)
    node.records._recent[job.owner].append(UUID(int=7))  # neither log nor record
    async with opened(node, job.owner) as watch:
        await taken(watch, MAKING_SECONDS + 0.2)
        await finish(node, job)
        newest = await node.submitted(client)
        await finish(node, newest)
        last = (await taken(watch))[-1]
    await lose_newest(node, newest)
    async with opened(node, job.owner, last.id) as watch:
        heard = await taken(watch, MAKING_SECONDS + 0.2)
        assert names(heard) == ["reset", "failed"]
    async with opened(node, job.owner, heard[-1].id) as watch:
        assert watch.nothing_missed


async def test_more_than_a_hundred_jobs_under_way_are_all_known_by_the_id(node: Node, client: Client) -> None:
    """As many as a session may have tickets for within ten minutes."""
    first = await node.submitted(client)
    jobs = [job_upload(owner=first.owner) for _ in range(RECENT_JOBS + 10)]
    async with opened(node, first.owner) as watch:
        for job in jobs:
            await node.records.create(job, None)
            node.records.put_first(job.owner, job.job_id)
            await node.progress.open_job(job, FAR_MS)
        last = (await taken(watch, 0.5))[-1]
    await node.progress.cancel(jobs[-1].job_id)
    async with opened(node, first.owner, last.id) as watch:
        entries = await taken(watch)
    assert told(entries) == {str(jobs[-1].job_id): ["cancelled"]}
    assert names(entries) == ["cancelled"]
