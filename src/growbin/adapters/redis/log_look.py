"""A look at a job's log as it lies there, for the many who only look.

The log's own script takes several times as long to begin with. What is due, or not as this version writes it,
is left to that one: this one changes nothing.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask
from growbin.adapters.redis.stored_values import is_snapshot
from growbin.telemetry import traces

# KEYS  1 progress  2 events  3 result
# ARGV  1 "1" where the log is wanted, else ""  2 the id after which it is, or none
# Returns what the operation `read` of the log's script does, or nothing.
LOOK = """
local snapshot, ended = redis.pcall('GET', KEYS[1]), redis.pcall('GET', KEYS[3])
local first, known = 0, '1'
if ARGV[2] then
  local seq = tonumber(string.match(ARGV[2], '^[^.]+%.(%d+)%.') or 0)
  local entry = seq > 0 and redis.pcall('LINDEX', KEYS[2], seq - 1)
  if type(entry) == 'string' and string.sub(entry, 1, #ARGV[2] + 1) == ARGV[2] .. ' ' then
    first = seq
  else
    known = '0'
  end
end
local entries = ARGV[1] == '1' and redis.pcall('LRANGE', KEYS[2], first, -1) or {}
if type(snapshot) == 'table' or type(ended) == 'table' or entries.err then
  return false
end
local clock = redis.call('TIME')
local now_ms = string.format('%.0f', tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000))
return { snapshot or '', ended, known, now_ms, entries }
"""


class LogLook:
    def __init__(self, redis: Redis) -> None:
        self._script = redis.register_script(LOOK)

    async def at(self, job_id: UUID, after_id: str | None, *, with_log: bool) -> list[Any] | None:
        """None for what the log's script has to look at. Raises Unavailable."""
        name = str(job_id)
        look = self._script(
            keys=[keys.progress(name), keys.events(name), keys.result(name)],
            args=["1" if with_log else "", *([] if after_id is None else [after_id])],
        )
        with traces.span("redis read", "client"):
            found: list[Any] | None = await ask(look)
        if found is None:
            return None
        snapshot, ended, _, now_ms, _ = found
        may_be_read = ended is not None or not snapshot or is_snapshot(name, snapshot, int(now_ms))
        return found if may_be_read else None
