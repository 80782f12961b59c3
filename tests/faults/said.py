"""What a process says to Redis, RabbitMQ and S3, as its proxies overhear it: one chunk is one write."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

FRAME = struct.Struct("!BHI")  # AMQP: type, channel, length
METHOD = struct.Struct("!HH")
METHOD_FRAME = 1
AMQP_METHODS = {(60, 40): "publish", (60, 80): "ack", (60, 90): "reject", (60, 120): "nack"}
OPENING = {b"AUTH", b"CLIENT", b"HELLO", b"PING", b"SCRIPT", b"SELECT"}  # of a connection
REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n")

Command = tuple[bytes, ...]


def redis_commands(chunk: bytes) -> list[Command]:
    """Those that a chunk begins; without what opens a connection."""
    commands = list[Command]()
    while chunk.startswith(b"*"):
        head, _, chunk = chunk.partition(b"\r\n")
        words = list[bytes]()
        for _ in range(int(head[1:])):
            length, _, chunk = chunk.partition(b"\r\n")
            words.append(chunk[: int(length[1:])])
            chunk = chunk[int(length[1:]) + 2 :]
        if words[0].upper() not in OPENING:
            commands.append(tuple(words))
    return commands


def amqp_methods(chunk: bytes) -> Iterator[str]:
    """Those that carry or settle a message."""
    while len(chunk) >= FRAME.size and not chunk.startswith(b"AMQP"):
        kind, _, length = FRAME.unpack_from(chunk)
        if kind == METHOD_FRAME:
            method = AMQP_METHODS.get(METHOD.unpack_from(chunk, FRAME.size))
            if method:
                yield method
        chunk = chunk[FRAME.size + length + 1 :]


def http_requests(chunk: bytes) -> list[Command]:
    """Method and path of a request that begins the chunk."""
    line = REQUEST_LINE.match(chunk)
    return [line.groups()] if line else []
