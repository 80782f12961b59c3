"""Connections, with raw sockets: heads too long, too slow, odd; too many; and one shape of refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY

from growbin.gateway.addresses import Network
from growbin.gateway.connections import ConnectionLimits, Connections
from growbin.gateway.headers import guard_headers
from growbin.wiring.parts import serving
from tests.unit.conftest import Start
from tests.unit.gateway_node import Node

ANALYZE = "/api/v1/waste/analyze"
SECRET = "growbin_session=a-token-that-nobody-may-read"
LIMITS = ConnectionLimits(
    head_max_bytes=16 * 1024,
    head_timeout_seconds=10,
    keepalive_seconds=75,
    max_connections_per_address=200,
    max_connections=16_000,
    stream_write_timeout_seconds=20,
)
LONG_ENOUGH_SECONDS = 30


@dataclass
class Answer:
    """One HTTP answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """Its problem, which must have the shape of every problem and say nothing of the request."""
        assert self.headers["content-type"].startswith("application/problem+json")
        assert "server" not in self.headers
        for name, value in guard_headers(secure=False).items():
            assert self.headers[name.lower()] == value
        body: dict[str, Any] = json.loads(self.body)
        assert set(body) == {"type", "title", "status", "code", "detail", "request_id", "trace_id"}
        assert body["status"] == self.status
        assert body["type"] == f"urn:growbin:problem:{body['code']}"
        assert body["request_id"] == self.headers["x-request-id"]
        return body


class Wire:
    """A client without any manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    def stop_reading(self) -> None:
        assert isinstance(self._writer.transport, asyncio.Transport)
        self._writer.transport.pause_reading()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> Answer:
        async with asyncio.timeout(LONG_ENOUGH_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *fields = head.decode().rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(line.split()[1]), headers, body)

    async def end(self) -> bytes:
        """Whatever still comes until the server hangs up."""
        async with asyncio.timeout(LONG_ENOUGH_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


Dial = Callable[[], Awaitable[Wire]]


@asynccontextmanager
async def listening(node: Node, trusted: tuple[Network, ...] = (), **limits: Any) -> AsyncIterator[Dial]:
    """The node's application behind bounded connections; yields what dials it."""
    connections = Connections(replace(LIMITS, **limits), trusted, guard_headers(secure=False))
    writers: list[asyncio.StreamWriter] = []
    async with serving(node.app(), "127.0.0.1", 0, "PORT", connections.bound) as address:

        async def dial() -> Wire:
            reader, writer = await asyncio.open_connection(*address)
            writers.append(writer)
            return Wire(reader, writer)

        try:
            yield dial
        finally:
            for writer in writers:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()


def head(*fields: str, line: str = "GET /nowhere HTTP/1.1") -> bytes:
    return "\r\n".join([line, "Host: growbin.test", *fields, "", ""]).encode()


def padded(size: int) -> bytes:
    """A head of exactly so many bytes, in fields of a few kilobytes that say who it is."""
    fields = ["Cookie: " + SECRET]
    while (missing := size - len(head(*fields))) > 6000:
        fields.append("X-Pad: " + "p" * 4000)
    return head(*fields, "Y: " + "p" * (missing - 5))


def cut(reason: str) -> float:
    return REGISTRY.get_sample_value("growbin_connections_cut_total", {"reason": reason}) or 0


# --- heads -------------------------------------------------------------------------------------


async def test_head_of_16_kb_is_taken_and_one_byte_more_is_not(node: Node) -> None:
    """The whole head counts, on each call of a connection, however it is cut into packets."""
    async with listening(node) as dial:
        wire = await dial()
        for _ in range(3):
            wire.send(padded(16 * 1024))
            assert (await wire.answer()).status == 404
        wire.send(padded(16 * 1024 + 1))
        refused = await wire.answer()
        assert (refused.status, refused.problem["code"]) == (431, "head_too_large")
        assert b"token" not in refused.body
        assert await wire.end() == b""


async def test_one_field_may_be_as_long_as_the_head(node: Node) -> None:
    """A cookie of 9 kB is nobody's mistake, and one of 20 kB is not quoted."""
    async with listening(node) as dial:
        wire = await dial()
        wire.send(head("Cookie: " + SECRET + "a" * 9000))
        assert (await wire.answer()).status == 404
        wire.send(head("Cookie: " + SECRET + "a" * 20_000))
        refused = await wire.answer()
        assert (refused.status, refused.problem["code"]) == (431, "head_too_large")
        assert b"growbin_session" not in refused.body


async def test_endless_head_is_refused_while_it_is_still_being_sent(node: Node) -> None:
    """Who never stops hears it nevertheless, and is cut."""
    async with listening(node) as dial:
        before = cut("head_too_large")
        wire = await dial()
        wire.send(head()[:-2] + b"X-Pad: " + b"p" * 1_000_000)
        assert (await wire.answer()).status == 431
        await wire.end()
        assert cut("head_too_large") == before + 1


async def test_head_that_drips_is_cut_in_its_time(node: Node) -> None:
    """The time is the whole head's: a byte now and then buys nothing, on a first call or a later one."""
    async with listening(node, head_timeout_seconds=0.5) as dial:
        for later in (False, True):
            wire = await dial()
            if later:
                wire.send(head())
                assert (await wire.answer()).status == 404

            async def drip(wire: Wire = wire) -> None:
                for byte in head("X-Pad: " + "p" * 1000):
                    wire.send(bytes([byte]))
                    await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            refused = await wire.answer()
            assert (refused.status, refused.problem["code"]) == (408, "head_too_slow")
            assert await wire.end() == b""
            dripping.cancel()


async def test_connection_that_says_nothing_is_closed_without_a_word(node: Node) -> None:
    """A browser's spare connection would take an answer for that of its next call."""
    async with listening(node, head_timeout_seconds=0.2) as dial:
        assert await (await dial()).end() == b""


async def test_idle_connection_is_closed(node: Node) -> None:
    """Once it has been answered, it may wait for its next call, and not for ever."""
    async with listening(node, keepalive_seconds=0.3) as dial:
        wire = await dial()
        wire.send(head())
        assert (await wire.answer()).status == 404
        assert await wire.end() == b""


async def test_calls_sent_in_one_go_are_all_answered_in_order(node: Node) -> None:
    """Pipelining works, however many heads a packet brings, and none is taken for a part of another."""
    async with listening(node) as dial:
        wire = await dial()
        wire.send(b"".join(head(f"X-Request-ID: call-{number:04}") for number in range(500)))
        for number in range(500):
            assert (await wire.answer()).headers["x-request-id"] == f"call-{number:04}"


async def test_body_is_no_head(node: Node) -> None:
    """What follows a head is counted for itself, whole or in chunks of one byte."""
    body = json.dumps({"question": "?" * 480}).encode() + b" " * 15_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    json_type = "Content-Type: application/json"
    async with listening(node) as dial:
        wire = await dial()
        for _ in range(2):
            wire.send(head(json_type, f"Content-Length: {len(body)}", line=f"POST {ANALYZE} HTTP/1.1") + body)
            assert (await wire.answer()).status == 201
            wire.send(head(json_type, "Transfer-Encoding: chunked", line=f"POST {ANALYZE} HTTP/1.1") + chunks)
            assert (await wire.answer()).status == 201


async def test_trailers_are_no_way_around_the_limit(node: Node) -> None:
    """Fields behind a body are held like those before it."""
    async with listening(node) as dial:
        wire = await dial()
        trailers = b"".join(b"X-%d: %b\r\n" % (number, b"p" * 8000) for number in range(100))
        lines = ("Content-Type: application/json", "Transfer-Encoding: chunked")
        wire.send(head(*lines, line=f"POST {ANALYZE} HTTP/1.1") + b"2\r\n{}\r\n0\r\n" + trailers)
        refused = await wire.answer()
        assert (refused.status, refused.problem["code"]) == (400, "bad_request")
        await wire.end()


async def test_next_call_is_read_when_the_answer_is_out(node: Node) -> None:
    """What comes behind a call stays bytes: all of it is answered in turn, however it is cut."""
    body = b'{"question": "what?"}'
    call = head(
        *("Content-Type: application/json", f"Content-Length: {len(body)}"), line=f"POST {ANALYZE} HTTP/1.1"
    )
    calls = [head(), call + body, head("X-Pad: " + "p" * 9000), call + body, head()]
    async with listening(node) as dial:
        for size in (1, 1000, 10**6):
            wire = await dial()
            sent = b"".join(calls)
            for begin in range(0, len(sent), size):
                wire.send(sent[begin : begin + size])
                if size > 1:
                    await asyncio.sleep(0)
            assert [(await wire.answer()).status for _ in calls] == [404, 201, 404, 201, 404]


async def test_call_behind_a_body_that_nobody_reads_is_answered(node: Node) -> None:
    """The first call is answered at its head; its body is thrown away, and the next one begins behind it."""
    body = b"x" * 5000
    for line, status in (("POST /nowhere HTTP/1.1", 404), (f"DELETE {ANALYZE} HTTP/1.1", 405)):
        async with listening(node) as dial:
            wire = await dial()
            wire.send(head("Content-Length: 5000", line=line))
            assert (await wire.answer()).status == status
            wire.send(body + head(line="GET /openapi.json HTTP/1.1") + head())
            assert [(await wire.answer()).status for _ in range(2)] == [200, 404]


async def test_client_that_reads_nothing_is_cut(node: Node) -> None:
    """An answer that is not taken holds its connection for a while and no longer."""
    async with listening(node, stream_write_timeout_seconds=0.5) as dial:
        before = cut("answer_unread")
        wire = await dial()
        wire.stop_reading()
        wire.send(head(line="GET /openapi.json HTTP/1.1") * 400)
        async with asyncio.timeout(LONG_ENOUGH_SECONDS):
            while cut("answer_unread") == before:
                await asyncio.sleep(0.05)


# --- what cannot be read -----------------------------------------------------------------------

ODD = {
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00 growbin_session=token\r\n\r\n", 400),
    "http 0.9 without a version": (b"GET /token\r\n\r\n", 505),
    "http 0.9": (b"GET /token HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "http 2.0": (b"GET /token HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "http 2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "http 3.7": (b"GET /token HTTP/3.7\r\nHost: a\r\n\r\n", 400),
    "unknown method": (b"TOKEN / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space in the target": (b"GET /to ken HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no host": (b"GET /token HTTP/1.1\r\n\r\n", 400),
    "two hosts": (head("Host: token"), 400),
    "null byte": (head("X: to\0ken"), 400),
    "space before the colon": (head("Cookie : token"), 400),
    "folded line": (head("X: a", " token"), 400),
    "lone line feed": (b"GET /token HTTP/1.1\nHost: a\n\n", 400),
    "129 fields": (head(*(f"X-{number}: token" for number in range(130))), 400),
    "two lengths": (head("Content-Length: 5", "Content-Length: 6"), 400),
    "length and chunks": (head("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "length that is none": (head("Content-Length: token"), 400),
    "negative length": (head("Content-Length: -1"), 400),
    "unknown transfer encoding": (head("Transfer-Encoding: token"), 400),
    "expectation": (head("Expect: token"), 417),
    "expectation of a call": (head("Expect: token", line=f"POST {ANALYZE} HTTP/1.1"), 417),
    "expectation that is no text": (
        b"GET /token HTTP/1.1\r\nHost: a\r\nExpect: \xea\xff token\r\n\r\n",
        417,
    ),
    "target of elsewhere": (b"GET http://[token/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "options of everything": (head(line="OPTIONS * HTTP/1.1"), 404),
    "a tunnel": (head(line="CONNECT token:443 HTTP/1.1"), 404),
    "unknown address": (head(line="GET /token HTTP/1.1"), 404),
    "wrong method": (head(line=f"DELETE {ANALYZE} HTTP/1.1"), 405),
    "behind an upgrade": (head("Upgrade: websocket", "Connection: Upgrade") + b"token\r\n\r\n", 404),
    "packed body": (
        head("Content-Encoding: gzip", "Content-Length: 2", line=f"POST {ANALYZE} HTTP/1.1") + b"{}",
        415,
    ),
    "unknown packing": (
        head("Content-Encoding: token", "Content-Length: 2", line=f"POST {ANALYZE} HTTP/1.1") + b"{}",
        415,
    ),
    "bad chunk": (
        head("Transfer-Encoding: chunked", line=f"POST {ANALYZE} HTTP/1.1") + b"2\r\n{}\r\nzz\r\n",
        400,
    ),
    "no origin at all": (head("Origin: http://[", line="POST /api/v1/sessions HTTP/1.1"), 403),
    "words beyond ascii": (head("Origin: \ud55c\uae00", line="POST /api/v1/sessions HTTP/1.1"), 403),
}


@pytest.mark.parametrize("case", ODD)
async def test_odd_request_gets_a_problem_and_no_echo(node: Node, case: str) -> None:
    """Whoever refuses: the parser, HTTP's rules, the table of calls, a call."""
    data, status = ODD[case]
    async with listening(node) as dial:
        wire = await dial()
        wire.send(data)
        refused = await wire.answer()
        assert refused.status == status
        told = {**refused.problem, "detail": refused.problem["detail"]}
        assert "token" not in json.dumps(told)


async def test_problem_is_in_the_language_that_was_read(node: Node) -> None:
    """Korean for who reads it; English for a program that names no language, and where none was read."""
    async with listening(node) as dial:
        wire = await dial()
        wire.send(head("Accept-Language: ko-KR, en;q=0.5"))
        korean = await wire.answer()
        assert korean.headers["content-language"] == "ko"
        assert korean.problem["title"] == "\uc544\ubb34\uac83\ub3c4 \uc5c6\uc5b4\uc694"
        wire.send(head("Accept-Language: en"))
        english = await wire.answer()
        assert english.headers["content-language"] == "en"
        wire.send(head())
        assert (await wire.answer()).problem["title"] == english.problem["title"]


async def test_client_that_is_still_sending_hears_the_refusal(node: Node) -> None:
    """The connection closes a moment later, so that no reset overtakes the answer."""
    async with listening(node) as dial:
        wire = await dial()
        wire.send(b"\x00" * 300_000)
        assert (await wire.answer()).status == 400
        assert await wire.end() == b""


async def test_good_calls_before_an_odd_one_are_answered(node: Node) -> None:
    """The refusal comes in its turn."""
    async with listening(node) as dial:
        wire = await dial()
        wire.send(head())
        assert (await wire.answer()).status == 404
        wire.send(head() + b"GET /token HTTP/2.0\r\nHost: a\r\n\r\n")
        assert [(await wire.answer()).status for _ in range(2)] == [404, 505]
        wire = await dial()
        wire.send(head() + b"nonsense\r\n\r\n")
        assert [(await wire.answer()).status for _ in range(2)] == [404, 400]


# --- how many ----------------------------------------------------------------------------------


async def test_address_with_many_connections_gets_no_more(node: Node) -> None:
    """Until one of them ends; a trusted proxy stands for many clients and is not counted so."""
    async with listening(node, max_connections_per_address=3) as dial:
        wires = [await dial() for _ in range(3)]
        for wire in wires:
            wire.send(head())
            assert (await wire.answer()).status == 404
        refused = await (await dial()).answer()
        assert (refused.status, refused.problem["code"]) == (429, "too_many_connections")
        assert int(refused.headers["retry-after"]) > 0
        await wires[0].close()
        async with asyncio.timeout(LONG_ENOUGH_SECONDS):
            while True:
                wire = await dial()
                wire.send(head())
                if (await wire.answer()).status == 404:
                    break
    loopback = (ip_network("127.0.0.0/8"),)
    async with listening(node, loopback, max_connections_per_address=1) as dial:
        for _ in range(3):
            wire = await dial()
            wire.send(head())
            assert (await wire.answer()).status == 404


async def test_full_process_takes_nobody(node: Node) -> None:
    """Not even a trusted proxy's connection."""
    async with listening(node, (ip_network("127.0.0.0/8"),), max_connections=1) as dial:
        wire = await dial()
        wire.send(head())
        assert (await wire.answer()).status == 404
        refused = await (await dial()).answer()
        assert (refused.status, refused.problem["code"]) == (503, "too_many_connections")


async def test_strangers_fill_counters_and_not_the_log(node: Node) -> None:
    """Each cut is counted; a line a minute tells of them all."""
    before = cut("bad_request")
    with structlog.testing.capture_logs() as lines:
        async with listening(node) as dial:
            for _ in range(20):
                wire = await dial()
                wire.send(b"nonsense\r\n\r\n")
                assert (await wire.answer()).status == 400
    assert cut("bad_request") == before + 20
    assert [line["event"] for line in lines].count("connections_cut") == 1
    assert REGISTRY.get_sample_value("growbin_open_connections") == 0


async def test_connections_of_one_household_are_counted_together(start: Start) -> None:
    """An IPv6 client has a whole /64 to dial from."""
    connections = Connections(replace(LIMITS, max_connections_per_address=2), (), {})
    for last in range(2):
        connections.change(f"2001:db8:1:2::{last}", 1)
    assert connections.refusal_of("2001:db8:1:2::ffff") == 429
    assert connections.refusal_of("2001:db8:1:3::1") is None
    for last in range(2):
        connections.change(f"2001:db8:1:2::{last}", -1)
    assert connections.refusal_of("2001:db8:1:2::ffff") is None
