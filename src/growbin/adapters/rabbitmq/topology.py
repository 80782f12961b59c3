"""Every queue and exchange, declared once. `{name}` is QUEUE_NAME.

    queue                  dead-letters to      note
    {name}                 exchange {name}.dead the main queue; its length bound is a backstop far
                                                above the admission limit, so that returning retries
                                                never meet it (they would stall for minutes)
    {name}.delay.{n}s      {name}               one queue for each step: a TTL of its own, because a
                                                short message behind a long one does not expire in time
    {name}.obituaries      -                    dead letters as they died, read by consumers, who end the job
    {name}.letters         -                    what they leave of them for people, 7 days; the delivery limit
                                                is so high that listing never destroys
    {name}.parked          -                    dead letters as earlier versions kept them: bound to nothing,
                                                it runs dry in 7 days

All are durable quorum queues. Dead-lettering is at-least-once, which needs `reject-publish`. The
delivery limit of the main queue is only a backstop: attempts are counted in Redis.

No argument depends on a setting. A queue that was declared with others keeps and is used with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed

from growbin.ports import RETRY_DELAYS_SECONDS

log = structlog.get_logger()

DELIVERY_LIMIT = 20
UNLIMITED_DELIVERIES = 1_000_000  # 4.x would default to 20; -1 drops at the first redelivery on 3.10
LETTERS_MS = 7 * 24 * 3600 * 1000
BACKSTOP_JOBS = 100_000

Arguments = dict[str, Any]

_told: set[str] = set()  # what this process has warned of: connections come and go, the queue stays as it is


@dataclass(frozen=True, slots=True)
class Topology:
    name: str

    @property
    def dead_exchange(self) -> str:
        return f"{self.name}.dead"

    @property
    def parked(self) -> str:
        return f"{self.name}.parked"

    @property
    def letters(self) -> str:
        return f"{self.name}.letters"

    @property
    def obituaries(self) -> str:
        return f"{self.name}.obituaries"

    def delay(self, seconds: float) -> str:
        """The first step that is at least `seconds`, else the longest."""
        step = next((step for step in RETRY_DELAYS_SECONDS if step >= seconds), RETRY_DELAYS_SECONDS[-1])
        return f"{self.name}.delay.{step}s"

    def queues(self) -> Iterator[tuple[str, Arguments]]:
        dead_letter: Arguments = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        yield (
            self.name,
            dead_letter
            | {
                "x-dead-letter-exchange": self.dead_exchange,
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-max-length": BACKSTOP_JOBS,
            },
        )
        for step in RETRY_DELAYS_SECONDS:
            yield (
                self.delay(step),
                dead_letter
                | {
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": self.name,
                    "x-message-ttl": step * 1000,
                },
            )
        yield self.obituaries, {"x-delivery-limit": UNLIMITED_DELIVERIES}
        for name in (self.letters, self.parked):
            yield name, {"x-message-ttl": LETTERS_MS, "x-delivery-limit": UNLIMITED_DELIVERIES}

    def names(self) -> list[str]:
        return [self.dead_exchange, *(name for name, _ in self.queues())]

    async def declare(self, connection: AbstractConnection) -> None:
        """Make what is missing. What is there with other arguments is told once, and used as it is."""
        channel = await connection.channel()
        for name in self.names():
            try:
                await self.declare_one(name, channel)
            except ChannelPreconditionFailed as error:
                channel = await connection.channel()  # the refusal closed the other one
                if name not in _told:
                    _told.add(name)
                    log.warning("queue_differs", queue=name, reason=refusal(error))
        # The key that dead letters have: it makes an exchange of another type pass them on, too.
        obituaries = await channel.get_queue(self.obituaries, ensure=False)
        await obituaries.bind(self.dead_exchange, routing_key=self.name)
        # An earlier version binds it whenever it connects, and would have it keep what people have deleted.
        parked = await channel.get_queue(self.parked, ensure=False)
        await parked.unbind(self.dead_exchange, routing_key=self.name)
        await channel.close()

    async def declare_one(self, name: str, channel: AbstractChannel) -> None:
        """Raises ChannelPreconditionFailed, and the channel is closed, when it has other arguments."""
        if name == self.dead_exchange:
            await channel.declare_exchange(name, ExchangeType.FANOUT, durable=True)
        else:
            arguments = dict(self.queues())[name]
            await channel.declare_queue(name, durable=True, arguments=arguments | {"x-queue-type": "quorum"})

    async def find_one(self, name: str, channel: AbstractChannel) -> None:
        """Raises ChannelNotFoundEntity when it does not exist; makes nothing."""
        if name == self.dead_exchange:
            await channel.get_exchange(name, ensure=True)
        else:
            await channel.declare_queue(name, passive=True)


def refusal(error: ChannelPreconditionFailed) -> str:
    """The broker's sentence names the queue, the argument, and both values."""
    return str(error).removeprefix("PRECONDITION_FAILED - ")
