"""Fixtures of the unit tests: gateways on fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from growbin.gateway.addresses import Network
from growbin.rules.rulebook import Rulebook
from tests.fakes import Clock, FakeJobQueue, FakeJobRecords, FakeProgressLog, FakeSessions, FakeUploadStore
from tests.unit.gateway_node import LIMITS, LOOPBACK, RULES, Client, Node

Start = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts gateways: `await start(max_streams=1)`; one given `beside` shares the other's parts."""
    nodes: list[Node] = []

    async def start_node(
        beside: Node | None = None,
        *,
        secure_cookies: bool = False,
        takes_questions: bool = True,
        rules: Rulebook = RULES,
        trusted_proxies: tuple[Network, ...] = LOOPBACK,
        **limits: Any,
    ) -> Node:
        if beside is None:
            clock = Clock()
            node = Node(
                clock,
                FakeJobRecords(clock),
                FakeSessions(clock),
                FakeProgressLog(clock),
                FakeUploadStore(),
                FakeJobQueue(),
            )
        else:
            node = replace(beside, _stack=AsyncExitStack())
        node.limits = replace(LIMITS, **limits)
        node.secure_cookies = secure_cookies
        node.takes_questions = takes_questions
        node.rules = rules
        node.trusted_proxies = trusted_proxies
        await node.start()
        nodes.append(node)
        return node

    yield start_node
    for node in nodes:
        await node.stop()


@pytest.fixture
async def node(start: Start) -> Node:
    return await start()


@pytest.fixture
async def client(node: Node) -> Client:
    return await node.client()
