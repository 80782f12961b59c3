"""Every queue and exchange, declared once. `{name}` is QUEUE_NAME.

    queue                  dead-letters to      note
    {name}                 exchange {name}.dead the main queue; its length bound is a backstop far
                                                above the admission limit, so that returning retries
                                                never meet it (they would stall for minutes)
    {name}.delay.{n}s      {name}               one queue for each step: a TTL of its own, because a
                                                short message behind a long one does not expire in time
    {name}.parked          -                    dead letters for people, 7 days; the delivery limit is
                                                so high that listing never destroys
    {name}.obituaries      -                    the same dead letters, read by consumers, who end the job

All are durable quorum queues. Dead-lettering is at-least-once, which needs `reject-publish`. The
delivery limit of the main queue is only a backstop: attempts are counted in Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel

DELAY_STEPS_SECONDS = (1, 5, 15, 60)
DELIVERY_LIMIT = 20
NEVER_BY_DELIVERIES = 1_000_000  # 4.x would default to 20; -1 drops at the first redelivery on 3.10
PARKED_MS = 7 * 24 * 3600 * 1000
BACKLOG_BACKSTOP_FACTOR = 10

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Topology:
    name: str
    backlog_limit: int

    @property
    def dead_exchange(self) -> str:
        return f"{self.name}.dead"

    @property
    def parked(self) -> str:
        return f"{self.name}.parked"

    @property
    def obituaries(self) -> str:
        return f"{self.name}.obituaries"

    def delay(self, seconds: float) -> str:
        """The first step that is at least `seconds`, else the longest."""
        step = next((step for step in DELAY_STEPS_SECONDS if step >= seconds), DELAY_STEPS_SECONDS[-1])
        return f"{self.name}.delay.{step}s"

    def queues(self) -> Iterator[tuple[str, Arguments]]:
        dead_letter: Arguments = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        yield (
            self.name,
            dead_letter
            | {
                "x-dead-letter-exchange": self.dead_exchange,
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-max-length": self.backlog_limit * BACKLOG_BACKSTOP_FACTOR,
            },
        )
        for step in DELAY_STEPS_SECONDS:
            yield (
                self.delay(step),
                dead_letter
                | {
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": self.name,
                    "x-message-ttl": step * 1000,
                },
            )
        yield self.parked, {"x-message-ttl": PARKED_MS, "x-delivery-limit": NEVER_BY_DELIVERIES}
        yield self.obituaries, {"x-delivery-limit": NEVER_BY_DELIVERIES}

    async def declare(self, channel: AbstractChannel) -> None:
        """Idempotent; a queue that exists with other arguments raises ChannelPreconditionFailed."""
        dead = await channel.declare_exchange(self.dead_exchange, ExchangeType.FANOUT, durable=True)
        for name, arguments in self.queues():
            queue = await channel.declare_queue(
                name, durable=True, arguments=arguments | {"x-queue-type": "quorum"}
            )
            if name in (self.parked, self.obituaries):
                await queue.bind(dead)
