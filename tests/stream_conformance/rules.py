"""What a job's stream promises to whoever watches it, as rules that any service can be put through.

Each rule is a function whose docstring is the rule. It makes jobs of its own, returns what it saw, and raises
Broken where the rule is broken, or CannotBeTried where the description lacks what it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from tests.stream_conformance.any_service import (
    AT_ONCE_SECONDS,
    AnyService,
    Broken,
    CannotBeTried,
    Job,
    Person,
    check_open,
    is_reset,
    listed,
    stage_of,
)
from tests.stream_conformance.event_stream import Event
from tests.stream_conformance.forgeries import FORGERIES, IN_HEADERS
from tests.stream_conformance.open_stream import Way
from tests.stream_conformance.proxy import Proxy, some_bytes

Rule = Callable[[AnyService], Awaitable[str]]

SLACK_SECONDS = 2.0  # by which a heartbeat may be late on a busy machine
CONNECTIONS = 8
READERS = 3  # together, beside which a fourth place stays free: few services allow one person more
RACES = 20
VANISHING = 100
FIRST_CUT_BYTES = 300

# --- the stream as HTTP


async def kept_from_caches(service: AnyService) -> str:
    """It is answered as `text/event-stream`, and no cache between us may keep it."""
    async with service.person() as person, person.watching(await person.create()) as stream:
        check_open(stream)
        content_type = stream.headers.get("Content-Type", "none")
        if content_type.partition(";")[0].strip().lower() != "text/event-stream":
            raise Broken(f"Content-Type: {content_type}")
        policy = stream.headers.get("Cache-Control", "none")
        if not {word.strip().lower() for word in policy.split(",")} & {"no-cache", "no-store"}:
            raise Broken(f"Cache-Control: {policy}")
        return f"Cache-Control: {policy}"


async def kept_from_buffers(service: AnyService) -> str:
    """Proxies are told not to hold it back (`X-Accel-Buffering: no`), and it is not compressed."""
    async with service.person() as person, person.watching(await person.create()) as stream:
        check_open(stream)
        if (encoding := stream.headers.get("Content-Encoding")) is not None:
            raise Broken(f"Content-Encoding: {encoding}")
        if (told := stream.headers.get("X-Accel-Buffering", "none")) != "no":
            raise Broken(f"X-Accel-Buffering: {told}")
        return "X-Accel-Buffering: no, not compressed"


async def open_at_once(service: AnyService) -> str:
    """It opens at once, not with the first event that is due."""
    async with service.person() as person:
        job = await _held(person)
        try:
            async with asyncio.timeout(AT_ONCE_SECONDS), person.watching(job) as stream:
                check_open(stream)
        except TimeoutError:
            raise Broken(f"no answer within {AT_ONCE_SECONDS:g} s") from None
    return "opened while nothing happened"


async def reconnect_time(service: AnyService) -> str:
    """It says how long to wait before coming back (`retry`), not the same to all, so that clients that were
    cut together do not return together."""
    waits = []
    async with service.person() as person:
        job, _ = await person.ended()
        for _ in range(CONNECTIONS):
            async with person.watching(job) as stream:
                await stream.story()
                waits += stream.retries
    if not waits:
        raise Broken("no `retry` was told")
    if len(set(waits)) == 1:
        raise Broken(f"`retry: {waits[0]}` to each of {CONNECTIONS} connections")
    return f"{min(waits)} to {max(waits)} ms"


async def heartbeat(service: AnyService) -> str:
    """A quiet stream says in time that it lives, so that no proxy takes the line for dead."""
    longest = service.description.stream.heartbeat_seconds
    async with service.person() as person, person.watching(await _held(person)) as stream:
        check_open(stream)
        await stream.event(AT_ONCE_SECONDS)  # what is known comes first
        for _ in range(2):
            try:
                async with asyncio.timeout(longest + SLACK_SECONDS):
                    if await stream.item() is None:
                        raise Broken("it was closed while the job waited")
            except TimeoutError:
                raise Broken(f"not a word for {longest + SLACK_SECONDS:g} s") from None
    return f"something at least every {longest:g} s"


# --- the story


async def one_end(service: AnyService) -> str:
    """Who listens from the beginning hears the job end once, nothing after it, and the stream is closed."""
    async with service.person() as person:
        job = await person.create()
        async with person.watching(job) as stream, asyncio.TaskGroup() as starting:
            check_open(stream)
            starting.create_task(job.start())
            told = await stream.story()
            if not told or not stream.ends(told[-1]):
                raise Broken(f"closed without an end after {listed(told)}")
            try:
                async with asyncio.timeout(AT_ONCE_SECONDS):
                    while (item := await stream.item()) is not None:
                        if isinstance(item, Event):
                            raise Broken(f"after the end came {item}")
            except TimeoutError:
                raise Broken(f"still open {AT_ONCE_SECONDS:g} s after the end") from None
    return f"{len(told)} events, the last {told[-1]}"


async def every_stage(service: AnyService) -> str:
    """A good job's stream tells every stage, in order."""
    stages = service.description.stream.stages
    if not stages:
        raise CannotBeTried("the description names no `stages`")
    async with service.person() as person:
        _, told = await person.ended()
    heard = [stage_of(event, service.description) for event in told]
    changes = [stage for place, stage in enumerate(heard) if place == 0 or heard[place - 1] != stage]
    if changes != list(stages):
        missing = [stage for stage in stages if stage not in heard]
        raise Broken(f"heard {', '.join(changes)}; missing: {', '.join(missing) or 'none'}")
    return ", ".join(changes)


async def progress(service: AnyService) -> str:
    """Progress never falls."""
    name = service.description.stream.progress
    if name is None:
        raise CannotBeTried("the description names no `progress` field")
    async with service.person() as person:
        _, told = await person.ended()
    heard = [event.data[name] for event in told if name in event.data]
    if not heard or heard != sorted(heard):
        raise Broken(f"progress {heard}")
    return f"progress {heard}"


async def same_to_all(service: AnyService) -> str:
    """Whoever joins while the job runs is told the whole story, word for word what others are told."""
    async with service.person() as person, asyncio.TaskGroup() as readers:
        job = await person.create()
        joined: list[asyncio.Task[list[Event]]] = []
        whole: list[Event] = []
        async with person.watching(job) as stream:
            check_open(stream)
            readers.create_task(job.start())
            while not (whole and stream.ends(whole[-1])) and (event := await stream.event()) is not None:
                whole.append(event)
                if len(joined) < READERS - 1 and not stream.ends(event):
                    joined.append(readers.create_task(person.told(job)))
        for number, reader in enumerate(joined, 1):
            _compare(await reader, whole, f"who joined after event {number}")
    return f"{1 + len(joined)} readers were told the same {len(whole)} events"


async def latecomer(service: AnyService) -> str:
    """Who comes after the end is told the whole story, word for word."""
    async with service.person() as person:
        job, whole = await person.ended()
        for _ in range(READERS):
            _compare(await person.told(job), whole, "who came after the end")
    return f"all {len(whole)} events"


async def nothing_after_the_end(service: AnyService) -> str:
    """Nothing that comes after a job's end adds to its story, not even a cancel."""
    _need_cancel(service)
    async with service.person() as person:
        job, _ = await person.ended()
        before = await person.told(job)
        with contextlib.suppress(Exception):  # it may refuse
            await job.cancel()
        _compare(await person.told(job), before, "who came after a cancel")
    return f"{len(before)} events before and after a cancel"


async def race_with_the_end(service: AnyService) -> str:
    """An end that comes while the stream opens is not missed."""
    _need_cancel(service)
    chance = random.Random(4)

    async def cancel(job: Job, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        await job.cancel()

    for number in range(1, RACES + 1):
        async with service.person() as person, asyncio.TaskGroup() as both:
            job = await _held(person)
            ahead = chance.uniform(-0.006, 0.006)
            both.create_task(cancel(job, max(0.0, ahead)))
            await asyncio.sleep(max(0.0, -ahead))
            async with person.watching(job) as stream:
                check_open(stream)
                told = await stream.story()
            if not told or not stream.ends(told[-1]):
                raise Broken(f"try {number}: closed without an end after {listed(told)}")
    return f"{RACES} ends were told"


# --- ids, and coming back with one


async def ids(service: AnyService) -> str:
    """Every event has an id of its own, which a header can carry."""
    async with service.person() as person:
        _, told = await person.ended()
    known = _ids(told)
    if len(set(known)) < len(known):
        raise Broken(f"an id was given twice: {known}")
    if odd := [name for name in known if not re.fullmatch(r"[!-~]+", name)]:
        raise Broken(f"no header can carry {odd[0]!r}")
    return f"{len(known)} ids, such as {known[-1]}"


async def resume_after_the_end(service: AnyService) -> str:
    """Each id of an ended job is followed by exactly the rest."""
    return await _resumed_after_the_end(service, "header")


async def resume_by_query(service: AnyService) -> str:
    """The id may come in the address as well, for clients that cannot set a header."""
    if service.description.stream.last_id_parameter is None:
        raise CannotBeTried("the description names no `last_id_parameter`")
    return await _resumed_after_the_end(service, "query")


async def _resumed_after_the_end(service: AnyService, way: Way) -> str:
    async with service.person() as person:
        job, whole = await person.ended()
        for place, last_id in enumerate(_ids(whole)[:-1], 1):
            rest = await person.told(job, last_id, way=way)
            _compare(rest, whole[place:], f"who came back after event {place} of {len(whole)}")
    return f"{len(whole) - 1} places, each followed by the rest"


async def resume_while_it_runs(service: AnyService) -> str:
    """Who is cut after every single event still hears each event once and in order."""
    heard: list[Event] = []
    async with service.person() as person, asyncio.TaskGroup() as starting:
        job = await person.create()
        started = False
        while True:
            async with person.watching(job, _ids(heard[-1:])[0] if heard else None) as stream:
                check_open(stream)
                if not started:
                    starting.create_task(job.start())
                    started = True
                event = await stream.event()
            if event is None:
                raise Broken(f"closed without an end after {listed(heard)}")
            heard.append(event)
            if stream.ends(event):
                break
            _ids(heard)
        _compare(heard, await person.told(job), "who was cut after every event")
    return f"{len(heard)} connections, {len(heard)} events"


async def cut_anywhere(service: AnyService) -> str:
    """A line that breaks at any byte loses and repeats nothing."""
    chance = random.Random(7)
    proxy = Proxy(
        service.base_url,
        piece_bytes=64,
        line_bytes=lambda: some_bytes(chance) if proxy.cuts else FIRST_CUT_BYTES,
    )
    heard: list[Event] = []
    gives_up_after = service.description.stream.patience_seconds
    try:
        async with (
            asyncio.timeout(2 * gives_up_after),
            service.person() as person,
            proxy.serving() as at,
            asyncio.TaskGroup() as starting,
        ):
            job = await person.create()
            starting.create_task(job.start())
            ended = False
            while not ended:
                last_id = _ids(heard[-1:])[0] if heard else None
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    async with person.watching(job, last_id, at=at) as stream:
                        check_open(stream)
                        while not ended and (event := await stream.event()) is not None:
                            heard.append(event)
                            ended = stream.ends(event)
            _ids(heard)
            _compare(heard, await person.told(job), "who was cut at random bytes")
    except TimeoutError:
        raise Broken(f"no end within {2 * gives_up_after:g} s, after {listed(heard[-3:])}") from None
    return f"{proxy.cuts} cuts, {len(heard)} events"


async def empty_id(service: AnyService) -> str:
    """An empty id is no id: who has seen nothing yet may say so."""
    async with service.person() as person:
        job, _ = await person.ended()
        whole = await person.told(job)
        _compare(await person.told(job, ""), whole, "who came with an empty id")
    return f"all {len(whole)} events"


async def stop_after_the_end(service: AnyService) -> str:
    """Who comes back with the id of the end gets 204, which alone stops an EventSource; nobody else does."""
    async with service.person() as person:
        job, whole = await person.ended()
        for place, last_id in enumerate(_ids(whole), 1):
            async with person.watching(job, last_id) as stream:
                due = 204 if place == len(whole) else 200
                if stream.status != due:
                    raise Broken(f"{stream.status} to who has seen event {place} of {len(whole)}")
    return "204 to the last id alone"


# --- ids that are in no history


async def unknown_id(service: AnyService) -> str:
    """Who comes with an id that was never given is told so by a reset, then the end: neither silence nor a
    wrong continuation."""
    async with service.person() as person:
        job, whole = await person.ended()
        known = _ids(whole)[min(2, len(whole) - 1)]
        for name in IN_HEADERS:
            if (forged := FORGERIES[name](known)) not in _ids(whole):
                await _check_reset(person, job, forged, whole[-1], f"{forged[:40]!r} ({name})")
    return f"{len(IN_HEADERS)} forged ids"


async def id_of_another_job(service: AnyService) -> str:
    """Another job's id is unknown, too, also at the same place of its story."""
    async with service.person() as person:
        (job, whole), (_, others) = await person.ended(), await person.ended()
        for place, last_id in enumerate(_ids(others), 1):
            await _check_reset(person, job, last_id, whole[-1], f"another job's id of event {place}")
    return f"{len(others)} ids of another job"


async def unknown_id_while_it_runs(service: AnyService) -> str:
    """Who comes with an unknown id while the job runs is told the present, and all that follows it."""
    async with service.person() as person:
        job = await _held(person)
        async with person.watching(job, "nonsense") as stream, asyncio.TaskGroup() as starting:
            check_open(stream)
            first = await stream.event()
            if first is None or not is_reset(first, service.description):
                raise Broken(f"told {first} where a reset was due")
            starting.create_task(job.start())
            rest = await stream.story()
        whole = await person.told(job)
        if (
            not rest
            or rest != whole[-len(rest) :]
            or stage_of(first, service.description) != stage_of(whole[-len(rest) - 1], service.description)
        ):
            raise Broken(f"after {first} came {listed(rest)}")
    return f"a reset, then {len(rest)} events"


async def restart(service: AnyService) -> str:
    """After a restart in mid-job, who comes back hears what it missed, or a reset, and then the end."""
    command = service.description.restart
    if not command:
        raise CannotBeTried("the description has no `restart` command")
    async with service.person() as person:
        job = await person.create()
        async with person.watching(job) as stream, asyncio.TaskGroup() as starting:
            check_open(stream)
            started = starting.create_task(job.start())
            heard = [event for _ in range(2) if (event := await stream.event()) is not None]
            await started
            process = await asyncio.create_subprocess_exec(*command)
            if code := await process.wait():
                raise CannotBeTried(f"the `restart` command ended with {code}")
        last_id = _ids(heard)[-1]
        rest = await _told_when_it_is_back(person, job, last_id)
        if not rest or not stream.ends(rest[-1]):
            raise Broken(f"closed without an end after {listed(rest)}")
        if is_reset(rest[0], service.description):
            return f"a reset, then {listed(rest[1:])}"
        _compare(heard + rest, await person.told(job), "who came back after the restart")
    return f"{len(heard)} events before, {len(rest)} after"


async def _told_when_it_is_back(person: Person, job: Job, last_id: str) -> list[Event]:
    longest = person.description.stream.patience_seconds
    try:
        async with asyncio.timeout(longest):
            while True:
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    async with person.watching(job, last_id) as stream:
                        if stream.status < 500:
                            check_open(stream)
                            return await stream.story()
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Broken(f"silence: no end for {longest:g} s after the restart") from None


# --- who may listen


async def no_job_no_stream(service: AnyService) -> str:
    """What is no job is refused, not answered with an empty stream."""
    async with service.person() as person:
        job = await person.create()
        path = _path_of_nobody(job)
        async with person.watching(path) as stream:
            if not 400 <= stream.status < 500:
                raise Broken(f"{path} was answered with {stream.status}")
            return f"{path} was answered with {stream.status}"


async def strangers(service: AnyService) -> str:
    """Another person's job looks like none, whatever id is offered."""
    if not service.description.session:
        raise CannotBeTried("the description has no `session`: all are one person")
    async with service.person() as person, service.person() as stranger:
        job, whole = await person.ended()
        offered = (None, "nonsense", *(event.id for event in whole))
        for last_id in offered:
            async with stranger.watching(job.events_path, last_id) as stream:
                foreign = stream.status
            async with stranger.watching(_path_of_nobody(job), last_id) as stream:
                if foreign != stream.status or foreign < 400:
                    raise Broken(f"{foreign} for another's job, {stream.status} for none, with {last_id!r}")
    return f"the same refusal for both, {len(offered)} ids offered"


async def vanished_readers(service: AnyService) -> str:
    """Readers who leave without a word take nobody's place."""
    async with service.person() as person:
        job = await person.create()
        for _ in range(VANISHING):
            async with person.watching(job) as stream:
                check_open(stream)
        await asyncio.sleep(1)
        try:
            async with asyncio.timeout(AT_ONCE_SECONDS), person.watching(job) as stream:
                check_open(stream)
        except TimeoutError:
            raise Broken(f"no answer within {AT_ONCE_SECONDS:g} s after {VANISHING} had left") from None
    return f"{VANISHING} came and left"


# --- what several rules look at


async def _held(person: Person) -> Job:
    if not person.description.start:
        raise CannotBeTried("no job can be held: the description has no `start`")
    return await person.create()


def _need_cancel(service: AnyService) -> None:
    if not service.description.cancel:
        raise CannotBeTried("the description has no `cancel`")


def _ids(events: Sequence[Event]) -> list[str]:
    known = [event.id for event in events if event.id]
    if len(known) < len(events):
        raise Broken(f"{len(events) - len(known)} of {len(events)} events have no id to come back with")
    return known


def _path_of_nobody(job: Job) -> str:
    """Where another job would be."""
    values = {
        name: str(uuid.uuid4()) if isinstance(value, str | int) else value
        for name, value in job.known.items()
    }
    return Job(job.person, values).events_path


def _compare(heard: Sequence[Event], due: Sequence[Event], who: str) -> None:
    if list(heard) == list(due):
        return
    missing = [event for event in due if event not in heard]
    beyond = [event for event in heard if event not in due]
    repeated = [event for place, event in enumerate(heard) if event in heard[:place]]
    differences = {"missing": missing, "not told to others": beyond, "repeated": repeated}
    seen = "; ".join(f"{name}: {listed(events)}" for name, events in differences.items() if events)
    raise Broken(f"{who} heard {len(heard)} events where {len(due)} were due; {seen or 'in another order'}")


async def _check_reset(person: Person, job: Job, last_id: str, end: Event, what: str) -> None:
    try:
        events = await person.told(job, last_id)
    except Broken as broken:
        raise Broken(f"{what}: {broken}") from None
    resets = [is_reset(event, person.description) for event in events]
    if resets[:1] != [True] or any(resets[1:]) or events[-1] != end:
        raise Broken(f"{what}: told {listed(events)}")


RULES: tuple[Rule, ...] = (
    kept_from_caches,
    kept_from_buffers,
    open_at_once,
    reconnect_time,
    heartbeat,
    one_end,
    every_stage,
    progress,
    same_to_all,
    latecomer,
    nothing_after_the_end,
    race_with_the_end,
    ids,
    resume_after_the_end,
    resume_by_query,
    resume_while_it_runs,
    cut_anywhere,
    empty_id,
    stop_after_the_end,
    unknown_id,
    id_of_another_job,
    unknown_id_while_it_runs,
    restart,
    no_job_no_stream,
    strangers,
    vanished_readers,
)
