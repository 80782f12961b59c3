"""Server-sent events as bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from growbin.gateway import sse
from growbin.job import LogEntry


def parsed_data(block: bytes) -> str:
    """What a browser makes of a block's data, by the format's three line ends."""
    lines = block.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.removeprefix("data: ") for line in lines if line.startswith("data:"))


def test_event_becomes_one_block() -> None:
    """Id, name and data each have their line, and an empty line ends the block."""
    block = sse.encode_event(LogEntry("a.1.b", "progress", '{"seq":1}'))
    assert block == b'id: a.1.b\nevent: progress\ndata: {"seq":1}\n\n'


@given(st.text(st.sampled_from("ab:\r\n \u2028"), max_size=20))
def test_any_data_arrives_whole_in_one_block(data: str) -> None:
    """Line breaks in the data neither end the block nor make up fields."""
    block = sse.encode_event(LogEntry("a.1.b", "progress", data))
    assert block.count(b"\n\n") == 1
    assert parsed_data(block) == data.replace("\r\n", "\n").replace("\r", "\n")


def test_retry_and_heartbeat_carry_no_event() -> None:
    """They are blocks without data, which no client shows."""
    assert sse.encode_retry(2500) == b"retry: 2500\n\n"
    assert sse.HEARTBEAT == b":\n\n"
