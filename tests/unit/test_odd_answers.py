"""Odd answers of compatible servers, from the wire to the end of the job: asked once, ended clearly, and
nothing kept or told that was not looked at."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from growbin.adapters.model.analyst import OpenAIAnalyst
from growbin.adapters.model.bounded_client import MOST_BODY_BYTES
from growbin.adapters.model.reply import MOST_TOKENS
from growbin.certainty import Thresholds
from growbin.consumer.breakers import Breakers
from growbin.consumer.context import Consumer
from growbin.consumer.handle_job import handle_job
from growbin.job import CleanPhoto, ContentType, FetchedPhoto
from growbin.ports import Ack
from growbin.rules.overlay import load_rulebook
from tests.fakes import Clock, FakeOutages, FakeProgressLog, FakeUploadStore
from tests.jobs import job_of, upload
from tests.loopback import served

KEY = "sk-CANARY"
SEEN: dict[str, Any] = {
    "name": "plastic bottle",
    "category": "recyclable",
    "material": "clear_pet",
    "confidence": 0.93,
    "condition": ["has_label", "has_cap"],
}
GOOD: dict[str, Any] = {"items": [SEEN], "answer": None}
TEXT = json.dumps(GOOD)
BILL = {"prompt_tokens": 900, "completion_tokens": 80, "total_tokens": 980}
NOT_TOLD = {"cached_tokens": 0, "reasoning_tokens": 0, "picture_tokens": None, "cost_usd": None}
FULL = {"input_tokens": 900, "output_tokens": 80, **NOT_TOLD}
DONE, INVALID, REFUSED = "done", "model_answer_invalid", "model_refused"


def completion(content: Any = TEXT, **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {
        "id": "c",
        "object": "chat.completion",
        "model": "x",
        "choices": [choice],
        "usage": BILL,
    } | changes


def finished(reason: Any, content: Any = TEXT, **message: Any) -> dict[str, Any]:
    whole = completion(content)
    whole["choices"][0]["finish_reason"] = reason
    whole["choices"][0]["message"] |= message
    return whole


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in completion().items() if key != name}


def item(**changes: Any) -> dict[str, Any]:
    return completion(json.dumps(GOOD | {"items": [SEEN | changes]}))


def said(**changes: Any) -> dict[str, Any]:
    return completion(json.dumps(GOOD | changes))


def billed(usage: Any) -> dict[str, Any]:
    return completion(usage=usage)


@dataclass
class Odd:
    """What the server sends, how its job ends, and what the result says where that matters."""

    name: str
    body: Any  # JSON, or bytes as they are
    end: str = DONE
    result: dict[str, Any] = field(default_factory=dict)
    item: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def usage(given: int, written: int) -> dict[str, Any]:
    return {"usage": {"input_tokens": given, "output_tokens": written, **NOT_TOLD}}


DRAFT = json.dumps(GOOD | {"items": [SEEN | {"name": "draft"}]})
CASES = (
    Odd("good", completion(), result={"usage": FULL, "model": "x"}, item=SEEN),
    # --- the bill
    Odd("no bill", without("usage"), result=usage(0, 0)),
    Odd("null bill", billed(None), result=usage(0, 0)),
    Odd("empty bill", billed({}), result=usage(0, 0)),
    Odd("half a bill", billed({"prompt_tokens": 900, "total_tokens": 980}), result=usage(900, 80)),
    Odd("bill of nulls", billed(dict.fromkeys(BILL)), result=usage(0, 0)),
    Odd(
        "bill in floats", billed({name: float(count) for name, count in BILL.items()}), result=usage(900, 80)
    ),
    Odd("bill in texts", billed({name: str(count) for name, count in BILL.items()}), result=usage(900, 80)),
    Odd("bill in words", billed({"prompt_tokens": "many"}), result=usage(0, 0)),
    Odd("negative bill", billed({"prompt_tokens": -5, "completion_tokens": 80}), result=usage(0, 80)),
    Odd("huge bill", billed(BILL | {"prompt_tokens": 10**30}), result=usage(MOST_TOKENS, 80)),
    Odd("endless bill", billed(BILL | {"prompt_tokens": float("inf")}), result=usage(0, 80)),
    Odd(
        "bill of 5,000 digits",
        json.dumps(completion()).replace("900", "9" * 5000).encode(),
        result=usage(0, 80),
    ),
    Odd("bill that is a list", billed([900, 80]), result=usage(0, 0)),
    Odd("bill of truths", billed({"prompt_tokens": True}), result=usage(0, 0)),
    Odd("bill of another name", billed({"input_tokens": 900, "output_tokens": 80}), result=usage(900, 80)),
    # --- around the object
    Odd("fence", completion(f"```json\n{json.dumps(GOOD, indent=2)}\n```"), item=SEEN),
    Odd("fence without a name", completion(f"```\n{TEXT}\n```\n"), item=SEEN),
    Odd("thought", completion(f"<think>\nA bottle {{maybe PET}}.\n</think>\n\n{TEXT}"), item=SEEN),
    Odd("thought with a draft", completion(f"<think>{DRAFT}</think>{TEXT}"), item=SEEN),
    Odd("second half of a thought", completion(f"A bottle {DRAFT}?\n</think>\n{TEXT}"), item=SEEN),
    Odd("thought in its other name", completion(f"<Reasoning>{DRAFT}</Reasoning> {TEXT}"), item=SEEN),
    Odd("long thought", completion(f"<think>{'hm ' * 20_000}</think>{TEXT}"), item=SEEN),
    Odd("thought without an end", completion(f"<think>{DRAFT}"), INVALID),
    Odd("thought alone", completion("<think>A bottle.</think>"), INVALID),
    Odd("prose before", completion(f"Here is the JSON you asked for:\n{TEXT}"), item=SEEN),
    Odd("prose after", completion(f"{TEXT}\nI hope that helps {{you}}!"), item=SEEN),
    Odd("two, of which the last counts", completion(f"{DRAFT}\nNo, rather:\n{TEXT}"), item=SEEN),
    Odd("two, of which the last is none", completion(f'{TEXT}\n{{"items": "none"}}'), item=SEEN),
    Odd("byte order mark", b"\xef\xbb\xbf" + json.dumps(completion("\ufeff" + TEXT)).encode(), item=SEEN),
    Odd("line break in a text", completion(TEXT.replace("plastic bottle", "plastic\nbottle")), item=SEEN),
    Odd("blank lines before", b"\n   \n" * 500 + json.dumps(completion()).encode(), item=SEEN),
    Odd(
        "parts",
        completion([{"type": "text", "text": TEXT[:9]}, {"type": "text", "text": TEXT[9:]}]),
        item=SEEN,
    ),
    Odd("object instead of its text", completion(GOOD), item=SEEN),
    Odd(
        "JSON that calls itself text",
        json.dumps(completion()).encode(),
        headers={"Content-Type": "text/plain"},
    ),
    Odd("one bad byte", json.dumps(completion()).encode().replace(b'"id": "c"', b'"id": "\xff"'), item=SEEN),
    Odd("compressed", gzip.compress(json.dumps(completion()).encode()), headers={"Content-Encoding": "gzip"}),
    # --- around the message
    Odd("no reason to finish", finished(None), item=SEEN),
    Odd("finished at the cap, and whole", finished("length"), item=SEEN),
    Odd("cut at the cap", finished("length", TEXT[:-30]), INVALID),
    Odd("thought up to the cap", finished("length", ""), INVALID),
    Odd("nothing but a thought up to the cap", finished("length", "<think>hm"), INVALID),
    Odd("refusal", finished("stop", None, refusal="I cannot help with that."), REFUSED),
    Odd("empty refusal", finished("stop", refusal=""), item=SEEN),
    Odd("filtered", finished("content_filter", None), REFUSED),
    Odd("null model", completion(model=None), result={"model": "configured"}),
    Odd("no model", without("model"), result={"model": "configured"}),
    Odd("long model", completion(model="m" * 5000), result={"model": "m" * 100}),
    Odd("model with markup", completion(model="<b>gpt\n\u202e4</b>"), result={"model": "bgpt4/b"}),
    Odd("model in no letters of ours", completion(model="모델"), result={"model": "configured"}),
    Odd("model that is a number", completion(model=4), result={"model": "configured"}),
    # --- in the object
    Odd("percent", item(confidence=93), item={"confidence": 0.93}),
    Odd("percent in a text", item(confidence="93%"), item={"confidence": 0.93}),
    Odd("share in a text", item(confidence="0.93"), item={"confidence": 0.93}),
    Odd("a little above", item(confidence=1.01), item={"confidence": 1}),
    Odd("far above", item(confidence=5000), item={"confidence": 1}),
    Odd("below", item(confidence=-0.2), item={"confidence": 0}),
    Odd("confidence in words", item(confidence="high"), item={"confidence": 0.3}),
    Odd("no number", item(confidence=float("nan")), item={"confidence": 0.3}),
    Odd("endless", completion(TEXT.replace("0.93", "1e999")), item={"confidence": 0.3}),
    Odd("true", item(confidence=True), item={"confidence": 0.3}),
    Odd("field more", said(reasoning="x", bin="blue"), item=SEEN),
    Odd("field more in an item", item(bin="blue"), item=SEEN),
    Odd("no material", item(material=""), item={"material": None}),
    Odd("unknown material", item(material="gold"), item={"material": None}),
    Odd("unknown condition", item(condition=["has_label", "empty"]), item={"condition": ["has_label"]}),
    Odd("condition alone", item(condition="has_label"), item={"condition": ["has_label"]}),
    Odd("null condition", item(condition=None), item={"condition": []}),
    Odd("shouted ids", item(category="Recyclable", material="Clear PET"), item=SEEN),
    Odd("long name", item(name="x" * 500), item={"name": "x" * 120}),
    Odd("name with markup", item(name="<script>alert(1)</script> bottle"), item={"name": "alert(1) bottle"}),
    Odd("half a character", completion(TEXT.replace("plastic", "\\ud800plastic")), item=SEEN),
    Odd("one item of another kind", said(items=[7, SEEN, SEEN | {"category": "plastic"}]), item=SEEN),
    Odd("thirty items", said(items=[SEEN] * 30), item=SEEN),
    Odd("nothing seen", said(items=[])),
    Odd("long reply", said(answer="가" * 900), result={"answer": "가" * 600}),
    Odd("reply that is a number", said(answer=5), result={"answer": None}),
    Odd("reply left out", completion(json.dumps({"items": [SEEN]})), result={"answer": None}),
    # --- no answer in it
    Odd("no category", item(category="plastic"), INVALID),
    Odd("no name", item(name="\u200b<i></i>"), INVALID),
    Odd("items in words", said(items="a bottle"), INVALID),
    Odd("items of null", said(items=None), INVALID),
    Odd("prose alone", completion("I see a plastic bottle."), INVALID),
    Odd("cut", completion(TEXT[:-5]), INVALID),
    Odd("list of findings", completion(json.dumps([SEEN])), INVALID),
    Odd("object in an object", completion(json.dumps({"analysis": GOOD})), INVALID),
    Odd("nested too deep", completion('{"a":' * 3000), INVALID),
    Odd("many beginnings", completion('{"items":[{"' * 1500), INVALID),
    Odd("empty content", completion(""), INVALID),
    Odd("null content", completion(None), INVALID),
    Odd("content too long", completion("x" * 30_000), INVALID),
    Odd("no choice", completion(choices=[]), INVALID),
    Odd("null choices", completion(choices=None), INVALID),
    Odd("choices in a text", completion(choices="abc"), INVALID),
    Odd("choice without a message", completion(choices=[{"index": 0}]), INVALID),
    Odd("message in a text", completion(choices=[{"message": "hello"}]), INVALID),
    Odd("error with a 200", {"error": {"message": f"Incorrect key {KEY}", "code": KEY}}, INVALID),
    Odd("web page", b"<html>welcome to the proxy</html>", INVALID, headers={"Content-Type": "text/html"}),
    Odd("cut JSON", json.dumps(completion()).encode()[:-20], INVALID),
    Odd("text", b'"text"', INVALID),
    Odd("list", b"[]", INVALID),
    Odd("null", b"null", INVALID),
    Odd("nothing", b"", INVALID),
    Odd("no text at all", b"\xff\xfe\xfd", INVALID),
    Odd("no gzip", b"no gzip", INVALID, headers={"Content-Encoding": "gzip"}),
    Odd("bomb", gzip.compress(b" " * 50_000_000), INVALID, headers={"Content-Encoding": "gzip"}),
    Odd("more than a megabyte", b" " * MOST_BODY_BYTES + json.dumps(completion()).encode(), INVALID),
)


class Photos:
    async def fetch(self, key: str, etag: str, length: int) -> FetchedPhoto:
        return FetchedPhoto(b"photo", "cdn", "miss")

    async def clean(self, data: bytes, target: ContentType, **_: object) -> CleanPhoto:
        return CleanPhoto(data, target, 10, 10)


def consumer_of(analyst: OpenAIAnalyst, progress: FakeProgressLog) -> Consumer:
    return Consumer(
        leases=progress,
        progress=progress,
        calls=progress,
        uploads=FakeUploadStore(),
        photos=Photos(),
        cleaner=Photos(),
        analyst=analyst,
        image_base_url="https://cdn.test",
        cache_seconds=60,
        rules=load_rulebook(None),
        thresholds_of=lambda _: Thresholds(sure=0.8, probable=0.5),
        lease_renew_seconds=1,
        max_starts=4,
        breakers=Breakers({}, FakeOutages(Clock())),
    )


def texts(value: object) -> list[str]:
    """All texts in a JSON value."""
    if isinstance(value, dict):
        return [text for one in value.values() for text in texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in texts(one)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("odd", CASES, ids=lambda odd: odd.name)
async def test_odd_answer_ends_its_job_after_one_call_with_nothing_unchecked(odd: Odd) -> None:
    """Done where there is an answer in it, failed where there is none; it is never asked for again, and
    what is stored and told is bounded, plain and free of secrets."""
    calls = 0

    async def serve(request: web.BaseRequest) -> web.Response:
        nonlocal calls
        await request.read()
        calls += 1
        body = odd.body if isinstance(odd.body, bytes) else json.dumps(odd.body).encode()
        return web.Response(body=body, headers={"Content-Type": "application/json"} | odd.headers)

    progress, event = FakeProgressLog(Clock(), max_starts=4), job_of(upload())
    async with (
        served(serve) as url,
        OpenAIAnalyst.open(
            api_key=KEY, base_url=f"{url}/v1", model="configured", timeout_seconds=10
        ) as analyst,
    ):
        assert await handle_job(event, consumer_of(analyst, progress)) == Ack()
    assert calls == 1
    history = await progress.history(event.job_id, None)
    assert history is not None
    told = [json.loads(entry.data) for entry in history.entries]
    end = told[-1]
    assert ("done" if end["stage"] == "done" else end["failure"]["code"]) == odd.end
    assert all(text.isprintable() and len(text) <= 600 for text in texts(told))
    assert KEY not in json.dumps(told)
    if odd.end == DONE:
        result = end["result"]
        assert {name: result[name] for name in odd.result} == odd.result
        assert {name: result["items"][0][name] for name in odd.item} == odd.item
        assert len(result["items"]) <= 10
        assert len(result["model"]) <= 100
    kept = progress._of(event.job_id).answer
    assert (kept is None) <= (odd.end != DONE)
    if kept:
        assert KEY not in kept.model_dump_json()
        assert len(kept.text) <= 20_000
