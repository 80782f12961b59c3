"""handle_job, on fakes: every way out of the story."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import uuid4

import pytest
from structlog.processors import format_exc_info
from structlog.testing import capture_logs

from growbin.certainty import Thresholds
from growbin.consumer.breakers import Breakers
from growbin.consumer.context import Consumer
from growbin.consumer.handle_job import handle_job
from growbin.consumer.obituaries import end_dead_job
from growbin.errors import PARTS, JobFailed, Throttled, Unavailable
from growbin.job import CleanPhoto, ContentType, FetchedPhoto, Job, Locale, LogEntry, ModelAnswer
from growbin.ports import Ack, DeadLetter, HandBack, Obituary, Retry, Started
from growbin.rules.overlay import load_rulebook
from growbin.usage import Usage
from tests.fakes import Clock, FakeOutages, FakeProgressLog, FakeUploadStore
from tests.jobs import job_of, upload

PHOTO = FetchedPhoto(b"photo", "cdn", "miss")
SEEN = {"name": "병", "category": "recyclable", "material": "glass", "confidence": 0.9, "condition": []}
THRESHOLDS = {
    "test": Thresholds(sure=0.8, probable=0.5),
    "careful": Thresholds(sure=0.95, probable=0.9),
    "humble": Thresholds(sure=1, probable=0.95),
}
ANSWER = ModelAnswer(text=json.dumps({"items": [SEEN], "answer": None}), model="test", usage=Usage())


@dataclass
class Outside:
    """Photo source, cleaner and model in one: each call may be told to go wrong."""

    fetch_errors: list[Exception] = field(default_factory=list)
    clean_errors: list[Exception] = field(default_factory=list)
    cleaned_for: list[dict[str, str | None]] = field(default_factory=list)
    model_errors: list[Exception] = field(default_factory=list)
    model_calls: int = 0
    photos_asked_about: list[CleanPhoto] = field(default_factory=list)
    on_model_call: Callable[[], object] = lambda: None
    model_gate: asyncio.Event | None = None
    away: set[str] = field(default_factory=set)
    probes: list[str] = field(default_factory=list)
    refusal: Unavailable = field(default_factory=lambda: Unavailable("model", "500"))
    answer: ModelAnswer = ANSWER

    async def probe(self, part: str) -> None:
        self.probes.append(part)
        if part in self.away:
            raise Unavailable(part, "away")

    async def fetch(self, key: str, etag: str, length: int) -> FetchedPhoto:
        if "s3" in self.away:
            raise Unavailable("s3", "away")
        if self.fetch_errors:
            raise self.fetch_errors.pop(0)
        return PHOTO

    async def clean(self, data: bytes, target: ContentType, **origin: str | None) -> CleanPhoto:
        self.cleaned_for.append(origin)
        if self.clean_errors:
            raise self.clean_errors.pop(0)
        return CleanPhoto(data, target, 10, 10)

    async def ask(self, photo: CleanPhoto, question: str | None, locale: Locale) -> ModelAnswer:
        self.model_calls += 1
        self.photos_asked_about.append(photo)
        self.on_model_call()
        if self.model_gate is not None:
            await self.model_gate.wait()
        if "model" in self.away:
            raise self.refusal
        if self.model_errors:
            raise self.model_errors.pop(0)
        return self.answer


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.progress = FakeProgressLog(self.clock, max_starts=4)
        self.uploads = FakeUploadStore()
        self.outside = Outside()
        self.outages = FakeOutages(self.clock)
        self.consumer = Consumer(
            leases=self.progress,
            progress=self.progress,
            calls=self.progress,
            uploads=self.uploads,
            photos=self.outside,
            cleaner=self.outside,
            analyst=self.outside,
            image_base_url="https://cdn.test",
            cache_seconds=60,
            rules=load_rulebook(None),
            thresholds_of=THRESHOLDS.__getitem__,
            lease_renew_seconds=0.02,
            max_starts=4,
            breakers=Breakers({part: partial(self.outside.probe, part) for part in PARTS}, self.outages),
        )

    async def told(self, job: Job) -> list[LogEntry]:
        history = await self.progress.history(job.job_id, None)
        return history.entries if history else []

    async def stages(self, job: Job) -> list[str]:
        return [json.loads(entry.data)["stage"] for entry in await self.told(job)]

    async def failure_code(self, job: Job) -> str:
        last = (await self.told(job))[-1]
        assert last.event == "failed"
        return str(json.loads(last.data)["failure"]["code"])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def job(deadline_seconds: float = 300) -> Job:
    return job_of(upload(length=5), deadline_in_ms=int(deadline_seconds * 1000))


@pytest.mark.parametrize("accepted_at_ms", [0, 2**47 - 1])
async def test_job_accepted_at_a_strange_time_is_done_all_the_same(bench: Bench, accepted_at_ms: int) -> None:
    """Whoever stamped it: it is neither held back nor hurried, and has waited for no less than nothing."""
    event = job().model_copy(update={"accepted_at_ms": accepted_at_ms})
    async with asyncio.timeout(30):
        assert await handle_job(event, bench.consumer) == Ack()
    told = json.loads((await bench.told(event))[-1].data)
    assert (told["stage"], told["result"]["timings_ms"]["queue"] >= 0) == ("done", True)


async def test_good_photo_ends_done_with_advice(bench: Bench) -> None:
    """A job that meets no trouble tells each stage once, publishes the clean photo and ends done."""
    event = job()
    assert await handle_job(event, bench.consumer) == Ack()
    assert await bench.stages(event) == ["queued", "fetching", "analysing", "advising", "done"]
    result = json.loads((await bench.told(event))[-1].data)["result"]
    assert result["items"][0]["bin"]
    assert result["photo"] == {"source": "cdn", "cache": "miss", "bytes": 5}
    assert set(result["timings_ms"]) == {"queue", "fetch", "prepare", "analyse", "total"}
    assert event.public_key in bench.uploads.published


@pytest.mark.parametrize(
    ("model", "doubt", "certainty", "reason"),
    [
        ("test", None, "sure", None),
        ("careful", None, "probable", "unknown"),
        ("humble", None, "unsure", "unknown"),
        ("test", "far", "unsure", "far"),
    ],
)
async def test_result_says_how_sure_the_model_that_answered_is(
    bench: Bench, model: str, doubt: str | None, certainty: str, reason: str | None
) -> None:
    """Its own thresholds count, and its doubt; whoever is not sure asks back, with what else it may be."""
    said = {
        "items": [SEEN],
        "answer": None,
        "doubt": doubt,
        "choices": [{"category": "food", "material": None}],
    }
    bench.outside.answer = ModelAnswer(text=json.dumps(said), model=model, usage=Usage())
    event = job()
    assert await handle_job(event, bench.consumer) == Ack()
    result = json.loads((await bench.told(event))[-1].data)["result"]
    assert (result["certainty"], result["sure"]) == (certainty, certainty == "sure")
    if reason is None:
        assert result["ask_back"] is None
    else:
        assert result["ask_back"]["reason"] == reason
        assert result["ask_back"]["text"]
        assert [choice["category"] for choice in result["ask_back"]["choices"]] == ["food"]


@pytest.mark.parametrize("is_useful", [True, False])
async def test_each_paid_call_is_one_line_in_the_books(bench: Bench, is_useful: bool) -> None:
    """With its tokens and dollars, whether the answer is of use or not."""
    bill = Usage(input_tokens=1000, cached_tokens=600, output_tokens=20, cost_usd=0.002)
    if is_useful:
        bench.outside.answer = ANSWER.model_copy(update={"usage": bill})
    else:
        useless = JobFailed("model_answer_invalid")
        useless.usage = bill
        bench.outside.model_errors = [useless]
    with capture_logs() as lines:
        await handle_job(job(), bench.consumer)
    [line] = [line for line in lines if line["event"] == "model_call_paid"]
    assert Usage.model_validate(line) == bill


async def test_second_delivery_after_the_end_calls_no_model(bench: Bench) -> None:
    """A duplicate of an ended job is acknowledged unseen."""
    event = job()
    await handle_job(event, bench.consumer)
    assert await handle_job(event, bench.consumer) == Ack()
    assert bench.outside.model_calls == 1


@pytest.mark.parametrize("code", ["photo_missing", "photo_changed", "unsupported_photo"])
async def test_job_that_cannot_succeed_fails_with_its_code(bench: Bench, code: str) -> None:
    """JobFailed becomes the terminal event with its code, and the model is not asked."""
    bench.outside.fetch_errors = [JobFailed(code)]
    event = job()
    assert await handle_job(event, bench.consumer) == Ack()
    assert await bench.failure_code(event) == code
    assert bench.outside.model_calls == 0


async def test_unavailable_part_brings_the_job_again_then_gives_up(bench: Bench) -> None:
    """Three retries with growing delays; the fourth start fails as temporarily unavailable."""
    event = job()
    bench.outside.fetch_errors = [Unavailable("s3", "away")] * 4
    verdicts = [await handle_job(event, bench.consumer) for _ in range(4)]
    assert verdicts == [Retry(1), Retry(5), Retry(15), Ack()]
    assert await bench.failure_code(event) == "temporarily_unavailable"
    stages = await bench.stages(event)
    assert stages == ["queued", *["fetching"] * 4, "failed"]


async def test_step_that_times_out_is_postponed_like_an_absent_part(bench: Bench) -> None:
    """A TimeoutError with time left is a part that did not answer, not a bug and not the deadline."""
    bench.outside.fetch_errors = [TimeoutError()]
    event = job()
    assert await handle_job(event, bench.consumer) == Retry(1)


async def test_retry_that_would_come_too_late_fails_at_once(bench: Bench) -> None:
    """When the next delay is longer than the time left, the client hears so now."""
    event = job(deadline_seconds=0.9)
    bench.outside.fetch_errors = [Unavailable("s3", "away")]
    assert await handle_job(event, bench.consumer) == Ack()
    assert await bench.failure_code(event) == "temporarily_unavailable"


async def test_answer_paid_for_is_never_paid_again(bench: Bench) -> None:
    """Trouble after the model call: the next start uses the stored answer."""
    event = job()
    start = await bench.progress.begin(event, alone=False, call_id=uuid4().hex)
    assert isinstance(start, Started)
    await bench.progress.keep_answer(event, start.attempt, ANSWER, "c1")
    await bench.progress.release(event, start.attempt)
    assert await handle_job(event, bench.consumer) == Ack()
    assert bench.outside.model_calls == 0
    assert (await bench.stages(event))[-1] == "done"


async def test_throttled_model_is_asked_again_without_burning_anything(bench: Bench) -> None:
    """A 429 slows down and asks again in the same attempt; nothing paid is counted for it."""
    bench.outside.model_errors = [Throttled("rate", retry_after_seconds=0.01)] * 5
    event = job()
    assert await handle_job(event, bench.consumer) == Ack()
    assert await bench.stages(event) == ["queued", "fetching", "analysing", "advising", "done"]
    assert bench.outside.model_calls == 6
    assert bench.consumer.throttle.places < 32


async def test_doubtful_refusal_ends_its_job_and_slows_nobody(bench: Bench) -> None:
    """One photo is refused for itself: its neighbours go on at full speed, and nothing paid is counted."""
    bench.outside.model_errors = [Throttled("403", broken=True, doubtful=True)]
    refused, neighbour = job(), job()
    assert await handle_job(refused, bench.consumer) == Ack()
    assert await bench.failure_code(refused) == "model_refused"
    assert (bench.consumer.throttle.places, bench.consumer.breakers.open_parts) == (32, [])
    assert bench.progress._of(refused.job_id).attempts.paid == 0
    assert await handle_job(neighbour, bench.consumer) == Ack()
    assert (await bench.stages(neighbour))[-1] == "done"
    assert bench.outside.model_calls == 2


@pytest.mark.parametrize("suffix", ["", ".webp", ".png", ".jpg"])
async def test_model_gets_a_jpeg_whatever_the_public_copy_is(bench: Bench, suffix: str) -> None:
    """Not every server reads WebP. So is the public copy, unless its address promised another type."""
    event = job()
    event = event.model_copy(update={"key": event.key.replace(".jpg", suffix)})
    assert await handle_job(event, bench.consumer) == Ack()
    assert [photo.content_type for photo in bench.outside.photos_asked_about] == ["image/jpeg"]
    assert bench.uploads.published[event.public_key].content_type == event.public_type


async def test_photo_is_cleaned_in_the_turn_of_its_owner_and_address(bench: Bench) -> None:
    """An event of an earlier version may tell no address."""
    events = [job().model_copy(update={"address_hash": address}) for address in ("there", None)]
    for event in events:
        assert await handle_job(event, bench.consumer) == Ack()
    assert bench.outside.cleaned_for == [
        {"owner": event.owner, "address": address}
        for event, address in zip(events, ("there", None), strict=True)
    ]


async def test_unparsable_answer_fails_without_another_call(bench: Bench) -> None:
    """An answer that is no analysis is not asked for again: it was paid for."""
    bench.outside.answer = ANSWER.model_copy(update={"text": "I am not JSON"})
    event = job()
    assert await handle_job(event, bench.consumer) == Ack()
    assert await bench.failure_code(event) == "model_answer_invalid"
    assert bench.outside.model_calls == 1


async def test_bug_fails_the_job_and_parks_the_delivery(bench: Bench) -> None:
    """An error nobody named is a bug: `failed: internal`, and a dead letter for people."""
    bench.outside.clean_errors = [ZeroDivisionError("bug")]
    event = job()
    with capture_logs(processors=[format_exc_info]) as logs:
        assert await handle_job(event, bench.consumer) == DeadLetter("internal")
    assert await bench.failure_code(event) == "internal"
    told = next(line for line in logs if line["event"] == "job_hit_a_bug")
    assert told["log_level"] == "error"
    assert "ZeroDivisionError: bug" in told["exception"]


async def test_deadline_in_mid_call_expires_the_job(bench: Bench) -> None:
    """A call that outlasts the deadline is left, and the job ends expired."""
    bench.outside.model_gate = asyncio.Event()
    event = job(deadline_seconds=0.5)
    assert await handle_job(event, bench.consumer) == Ack()
    assert (await bench.stages(event))[-1] == "expired"


async def test_deadline_that_was_moved_in_mid_call_brings_the_job_again(bench: Bench) -> None:
    """A repeated upload-complete gave the job more time: its first delivery ends nothing."""
    bench.outside.model_gate = asyncio.Event()
    event = job(deadline_seconds=1)
    await bench.progress.queue_job(event.model_copy(update={"deadline_ms": event.deadline_ms + 60_000}))
    assert await handle_job(event, bench.consumer) == Retry(5)
    assert (await bench.stages(event))[-1] == "analysing"


@pytest.mark.parametrize(
    "error",
    [JobFailed("model_refused"), Unavailable("model", "away"), ZeroDivisionError("bug"), None],
    ids=["failed", "unavailable", "bug", "too late"],
)
async def test_redis_away_past_the_deadline_hands_the_job_on(bench: Bench, error: Exception | None) -> None:
    """Whatever the job met, its end cannot be written now: a later delivery shall write it."""
    bench.outside.on_model_call = lambda: setattr(bench.progress, "is_away", True)
    bench.outside.model_errors = [error] if error else []
    bench.outside.model_gate = None if error else asyncio.Event()
    event = job(deadline_seconds=1)
    assert await handle_job(event, bench.consumer) == Retry(5)
    bench.progress.is_away = False
    assert (await bench.stages(event))[-1] == "expired"


async def test_error_after_the_job_ended_elsewhere_ends_nothing(bench: Bench) -> None:
    """The job was cancelled while it met its error, and nobody has told us yet: the cancel stays its end."""
    consumer = replace(bench.consumer, lease_renew_seconds=60)
    bench.outside.model_gate = asyncio.Event()
    bench.outside.model_errors = [JobFailed("model_refused")]
    event = job()
    running = asyncio.create_task(handle_job(event, consumer))
    while not bench.outside.model_calls:
        await asyncio.sleep(0.01)
    await bench.progress.cancel(event.job_id)
    bench.outside.model_gate.set()
    assert await running == Ack()
    assert (await bench.stages(event))[-1] == "cancelled"


async def test_holder_that_was_overtaken_leaves_the_job(bench: Bench) -> None:
    """Another consumer has begun the job: the late one writes nothing, and looks again later."""
    consumer = replace(bench.consumer, lease_renew_seconds=60)
    bench.outside.model_gate = asyncio.Event()
    event = job()
    running = asyncio.create_task(handle_job(event, consumer))
    while not bench.outside.model_calls:
        await asyncio.sleep(0.01)
    bench.clock.advance(20)  # the lease lapses
    assert isinstance(await bench.progress.begin(event, alone=False, call_id=uuid4().hex), Started)
    bench.outside.model_gate.set()
    assert await running == Retry(5)
    assert (await bench.stages(event))[-2:] == ["analysing", "fetching"]  # the other's


async def test_cancelled_handler_gives_its_start_back(bench: Bench) -> None:
    """The consumer's grace is over: the cancellation goes on to who asked for it, and counts for nothing."""
    bench.outside.model_gate = asyncio.Event()
    event = job()
    running = asyncio.create_task(handle_job(event, bench.consumer))
    while not bench.outside.model_calls:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    again = await bench.progress.begin(event, alone=False, call_id=uuid4().hex)
    assert isinstance(again, Started)
    assert again.starts == 1


async def test_photo_is_public_only_once_the_model_has_answered(bench: Bench) -> None:
    """It is put just before the end: while the model looks, nobody else can."""
    event = job()
    bench.outside.on_model_call = lambda: seen.append(event.public_key in bench.uploads.published)
    seen: list[bool] = []
    assert await handle_job(event, bench.consumer) == Ack()
    assert (seen, event.public_key in bench.uploads.published) == ([False], True)


async def test_photo_of_a_job_cancelled_while_it_was_put_is_taken_back(bench: Bench) -> None:
    """The put has arrived, and the end that follows it is refused."""
    bench.uploads.publish_gate = asyncio.Event()
    event = job()
    running = asyncio.create_task(handle_job(event, bench.consumer))
    while event.public_key not in bench.uploads.published:
        await asyncio.sleep(0.01)
    await bench.progress.cancel(event.job_id)
    assert await running == Ack()
    assert event.public_key not in bench.uploads.published


async def test_photo_is_taken_back_though_the_lease_is_lost_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end was refused; then the renewal hears of the cancel as well, and must not cut the withdrawal."""
    bench.uploads.delete_gate = asyncio.Event()
    event, publish = job(), bench.uploads.publish_photo

    async def publish_and_cancel(key: str, photo: CleanPhoto, cache_seconds: int) -> None:
        await publish(key, photo, cache_seconds)
        await bench.progress.cancel(event.job_id)

    monkeypatch.setattr(bench.uploads, "publish_photo", publish_and_cancel)
    running = asyncio.create_task(handle_job(event, bench.consumer))
    await asyncio.sleep(10 * bench.consumer.lease_renew_seconds)  # in which a lease that is kept is renewed
    bench.uploads.delete_gate.set()
    assert await running == Ack()
    assert event.public_key not in bench.uploads.published


async def test_photo_that_cannot_be_taken_back_yet_brings_the_job_again(bench: Bench) -> None:
    """S3 went away between the put and the withdrawal: a later delivery finds the ended job and withdraws."""
    bench.uploads.publish_gate = asyncio.Event()
    event = job()
    running = asyncio.create_task(handle_job(event, bench.consumer))
    while event.public_key not in bench.uploads.published:
        await asyncio.sleep(0.01)
    bench.uploads.is_away = True
    await bench.progress.cancel(event.job_id)
    assert await running == Retry(5)
    assert await handle_job(event, bench.consumer) == Retry(5)
    bench.uploads.is_away = False
    assert await handle_job(event, bench.consumer) == Ack()
    assert event.public_key not in bench.uploads.published


@pytest.mark.parametrize("end", ["cancelled", "expired", "used up"])
async def test_delivery_of_a_job_that_ended_meanwhile_withdraws_its_photo(bench: Bench, end: str) -> None:
    """Its last consumer died between the public copy and the end: whoever gets the delivery withdraws."""
    event = job()
    await bench.progress.queue_job(event)
    for _ in range(4 if end == "used up" else 1):
        assert isinstance(await bench.progress.begin(event, alone=True, call_id=uuid4().hex), Started)
        bench.clock.advance(20)
    await bench.uploads.publish_photo(event.public_key, CleanPhoto(b"photo", "image/jpeg", 1, 1), 60)
    if end == "cancelled":
        await bench.progress.cancel(event.job_id)
    elif end == "expired":
        bench.clock.advance(300)
    assert await handle_job(event, bench.consumer) == Ack()
    assert event.public_key not in bench.uploads.published


async def test_photo_put_after_the_deletion_is_left_to_the_deletion(bench: Bench) -> None:
    """Whoever deletes must find it, to tell the CDN: the first pass is done again. Where there is no photo,
    nothing is added."""
    event, other = job(), job()
    await bench.uploads.publish_photo(event.public_key, CleanPhoto(b"photo", "image/jpeg", 1, 1), 60)
    for deleted in (event, other):
        await bench.progress.erase(deleted.job_id, deleted.owner)
    for erasure in await bench.progress.agenda.claim(10):
        await bench.progress.agenda.done(erasure)
    for deleted in (event, other):
        assert await handle_job(deleted, bench.consumer) == Ack()
    assert [it.job_id for it in await bench.progress.agenda.claim(10)] == [event.job_id]


async def test_repeated_delivery_of_a_done_job_keeps_its_photo(bench: Bench) -> None:
    """Its owner looks at it."""
    event = job()
    assert await handle_job(event, bench.consumer) == Ack()
    assert await handle_job(event, bench.consumer) == Ack()
    assert event.public_key in bench.uploads.published


async def test_job_that_cannot_be_begun_waits_in_its_place(bench: Bench) -> None:
    """Redis is away at the start: the job is begun as soon as it is back, with its first start."""
    bench.progress.is_away = True
    event = job()
    waiting = asyncio.create_task(handle_job(event, bench.consumer))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    bench.progress.is_away = False
    assert await waiting == Ack()
    assert (await bench.stages(event))[-1] == "done"


async def test_job_that_cannot_be_begun_in_its_life_comes_again(bench: Bench) -> None:
    """Redis stays away: the delivery waits in a delay queue, until somebody can tell how the job ended."""
    bench.progress.is_away = True
    assert await handle_job(job(0.2), bench.consumer) == Retry(5)


async def test_stop_hands_back_a_job_that_waits_for_redis(bench: Bench) -> None:
    """At once."""
    bench.progress.is_away = True
    waiting = asyncio.create_task(handle_job(job(), bench.consumer))
    await asyncio.sleep(0.05)
    await bench.consumer.close()
    async with asyncio.timeout(30):
        assert await waiting == HandBack()


@pytest.mark.parametrize(
    ("lets_go", "code"), [(True, "temporarily_unavailable"), (False, "crashed")], ids=["given back", "died"]
)
async def test_job_whose_starts_are_used_up_fails(bench: Bench, lets_go: bool, code: str) -> None:
    """After four starts the fifth delivery only writes the end, which tells whether the last holder died."""
    event = job()
    for _ in range(4):
        start = await bench.progress.begin(event, alone=True, call_id=uuid4().hex)
        assert isinstance(start, Started)
        if lets_go:
            await bench.progress.release(event, start.attempt)
        bench.clock.advance(20)
    assert await handle_job(event, bench.consumer) == Ack()
    assert await bench.failure_code(event) == code
    assert bench.outside.model_calls == 0


async def test_cancel_leaves_the_model_call(bench: Bench) -> None:
    """A cancel reaches the running call through the lease's renewal."""
    bench.outside.model_gate = asyncio.Event()
    event = job()
    running = asyncio.create_task(handle_job(event, bench.consumer))
    async with asyncio.timeout(30):
        while not bench.outside.model_calls:
            await asyncio.sleep(0.01)
        await bench.progress.cancel(event.job_id)
        assert await running == Ack()
    assert (await bench.stages(event))[-1] == "cancelled"


async def test_cancel_takes_back_a_public_photo_that_was_still_being_put(bench: Bench) -> None:
    """The store has it and has not said so when the cancel comes: nobody may see it all the same."""
    bench.uploads.publish_gate = asyncio.Event()
    event = job()
    running = asyncio.create_task(handle_job(event, bench.consumer))
    async with asyncio.timeout(30):
        while event.public_key not in bench.uploads.published:
            await asyncio.sleep(0.01)
        await bench.progress.cancel(event.job_id)
        assert await running == Ack()
    assert event.public_key not in bench.uploads.published


async def test_held_job_comes_again_later(bench: Bench) -> None:
    """While another consumer holds the job, the delivery waits in a delay queue."""
    event = job()
    await bench.progress.begin(event, alone=False, call_id=uuid4().hex)
    assert await handle_job(event, bench.consumer) == Retry(5)


async def test_redis_away_at_the_end_keeps_the_result_in_hand(bench: Bench) -> None:
    """The result is written when Redis is back, before the delivery is acknowledged; one call was paid."""
    event = job()

    async def come_back() -> None:
        await asyncio.sleep(0.3)
        bench.progress.is_away = False

    def go_away() -> None:
        bench.progress.is_away = True
        tasks.append(asyncio.create_task(come_back()))

    tasks: list[asyncio.Task[None]] = []
    bench.outside.on_model_call = go_away
    assert await handle_job(event, bench.consumer) == Ack()
    assert (await bench.stages(event))[-1] == "done"
    assert bench.outside.model_calls == 1


async def test_stop_hands_back_a_job_that_waits_for_the_model(bench: Bench) -> None:
    """Stopping while throttled: the job goes back at once, and its start does not count against it."""
    event = job()
    bench.outside.model_errors = [Throttled("rate", retry_after_seconds=60)]
    waiting = asyncio.create_task(handle_job(event, bench.consumer))
    while not bench.outside.model_calls:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    await bench.consumer.close()
    async with asyncio.timeout(30):
        assert await waiting == HandBack()
    again = await bench.progress.begin(event, alone=False, call_id=uuid4().hex)
    assert isinstance(again, Started)
    assert again.starts == 1


async def test_stop_lets_a_running_call_finish(bench: Bench) -> None:
    """What is being paid for when the consumer stops is finished."""
    event = job()
    bench.outside.model_gate = asyncio.Event()
    running = asyncio.create_task(handle_job(event, bench.consumer))
    while not bench.outside.model_calls:
        await asyncio.sleep(0.01)
    await bench.consumer.close()
    bench.outside.model_gate.set()
    assert await running == Ack()
    assert (await bench.stages(event))[-1] == "done"


async def test_delivery_after_stop_is_handed_back(bench: Bench) -> None:
    """A job that was prefetched and not begun goes to another consumer."""
    await bench.consumer.close()
    assert await handle_job(job(), bench.consumer) == HandBack()


async def test_obituary_ends_a_job_nothing_else_ended(bench: Bench) -> None:
    """A dead letter whose job still runs for its client becomes `failed`; a second one changes nothing."""
    event = job()
    await bench.progress.queue_job(event)
    for _ in range(2):
        await end_dead_job(Obituary(event.job_id, event, "delivery_limit"), bench.progress, bench.uploads)
    assert await bench.stages(event) == ["queued", "failed"]
    assert await bench.failure_code(event) == "dead_lettered"


async def test_obituary_says_how_its_job_ended_unless_it_was_deleted(bench: Bench) -> None:
    """For the letter that people find: the job's own code, or nothing at all."""

    async def said(event: Job, *, is_readable: bool = True) -> str | None:
        obituary = Obituary(event.job_id, event if is_readable else None, "rejected")
        return await end_dead_job(obituary, bench.progress, bench.uploads)

    dead, done, deleted, spoiled, unknown = (job() for _ in range(5))
    await bench.progress.queue_job(dead)
    assert await handle_job(done, bench.consumer) == Ack()
    await bench.progress.erase(deleted.job_id, deleted.owner)
    await bench.progress.queue_job(spoiled)
    assert [await said(dead), await said(done), await said(deleted)] == ["dead_lettered", "done", None]
    assert await said(spoiled, is_readable=False) == "bad_event"
    assert await said(unknown, is_readable=False) == "bad_event"
    assert await end_dead_job(Obituary(None, None, "rejected"), bench.progress, bench.uploads) == "bad_event"


async def test_obituary_withdraws_the_public_photo_of_a_job_without_result(bench: Bench) -> None:
    """Its last consumer may have died after the put; one that is done keeps its photo."""
    done, dead = job(), job()
    assert await handle_job(done, bench.consumer) == Ack()
    await bench.progress.queue_job(dead)
    await bench.uploads.publish_photo(dead.public_key, CleanPhoto(b"photo", "image/jpeg", 1, 1), 60)
    for event in (done, dead):
        await end_dead_job(Obituary(event.job_id, event, "delivery_limit"), bench.progress, bench.uploads)
    assert set(bench.uploads.published) == {done.public_key}


async def test_obituary_of_an_unreadable_body_ends_its_job(bench: Bench) -> None:
    """When only the id could be read, the known job ends all the same."""
    event = job()
    await bench.progress.queue_job(event)
    await end_dead_job(Obituary(event.job_id, None, "rejected"), bench.progress, bench.uploads)
    assert await bench.failure_code(event) == "bad_event"


async def test_job_whose_holders_died_twice_runs_alone(bench: Bench) -> None:
    """A suspect job waits until every neighbour is done, so that none can be blamed."""
    neighbour, suspect = job(), job()
    bench.outside.model_gate = asyncio.Event()
    for _ in range(2):
        assert isinstance(await bench.progress.begin(suspect, alone=False, call_id=uuid4().hex), Started)
        bench.clock.advance(20)  # the lease lapses, nobody let go of it
    beside = asyncio.create_task(handle_job(neighbour, bench.consumer))
    while not bench.outside.model_calls:
        await asyncio.sleep(0.01)
    alone = asyncio.create_task(handle_job(suspect, bench.consumer))
    await asyncio.sleep(0.1)
    assert bench.outside.model_calls == 1
    bench.outside.model_gate.set()
    assert list(await asyncio.gather(beside, alone)) == [Ack(), Ack()]
    assert bench.outside.model_calls == 2


# --- the same question about the same photo


def sharing(bench: Bench) -> None:
    bench.consumer = replace(bench.consumer, answers_depend_on="a model and rules")


async def result_of(bench: Bench, event: Job) -> dict[str, object]:
    told: dict[str, object] = json.loads((await bench.told(event))[-1].data)["result"]
    return told


async def test_same_photo_of_the_same_owner_is_paid_for_once(bench: Bench) -> None:
    """The second job has the first one's answer and its usage, and says that it was kept; the books know one
    call."""
    sharing(bench)
    bench.outside.answer = ANSWER.model_copy(update={"usage": Usage(input_tokens=9, cost_usd=0.5)})
    first, second = job(), job()
    with capture_logs() as lines:
        for event in (first, second):
            assert await handle_job(event, bench.consumer) == Ack()
    assert bench.outside.model_calls == 1
    assert [line["event"] for line in lines].count("model_call_paid") == 1
    told = await result_of(bench, second)
    assert told["answered_by"] == "kept"
    assert told["usage"] == (await result_of(bench, first))["usage"]


@pytest.mark.parametrize("change", [{"question": "Which bin?"}, {"locale": "en"}, {"owner": "b" * 64}])
async def test_another_question_language_or_owner_is_paid_for(bench: Bench, change: dict[str, str]) -> None:
    """Only what is the same in all that the answer depends on is shared."""
    sharing(bench)
    await handle_job(job(), bench.consumer)
    await handle_job(job().model_copy(update=change), bench.consumer)
    assert bench.outside.model_calls == 2


async def test_other_model_or_rules_ask_again(bench: Bench) -> None:
    """What is set up otherwise may answer otherwise."""
    sharing(bench)
    await handle_job(job(), bench.consumer)
    bench.consumer = replace(bench.consumer, answers_depend_on="other rules")
    await handle_job(job(), bench.consumer)
    assert bench.outside.model_calls == 2


async def test_same_photo_in_flight_waits_for_the_answer(bench: Bench) -> None:
    """Ten at once are one call."""
    sharing(bench)
    bench.outside.model_gate = asyncio.Event()
    events = [job() for _ in range(10)]
    running = [asyncio.create_task(handle_job(event, bench.consumer)) for event in events]
    async with asyncio.timeout(30):
        while not bench.outside.model_calls:
            await asyncio.sleep(0.01)
        bench.outside.model_gate.set()
        assert await asyncio.gather(*running) == [Ack()] * 10
    assert bench.outside.model_calls == 1
    assert sorted([str((await result_of(bench, one))["answered_by"]) for one in events]) == [
        *["kept"] * 9,
        "model",
    ]


async def test_answer_of_no_use_is_not_shared(bench: Bench) -> None:
    """Who tries the same photo once more may have a better answer."""
    sharing(bench)
    bench.outside.answer = ANSWER.model_copy(update={"text": "no JSON"})
    await handle_job(job(), bench.consumer)
    bench.outside.answer = ANSWER
    second = job()
    assert await handle_job(second, bench.consumer) == Ack()
    assert (await result_of(bench, second))["answered_by"] == "model"


async def test_nothing_is_shared_where_the_setting_says_so(bench: Bench) -> None:
    """Each photo is then a call."""
    for _ in range(2):
        await handle_job(job(), bench.consumer)
    assert bench.outside.model_calls == 2
