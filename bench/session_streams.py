"""What a session's stream costs while nothing happens: heartbeats, and the slow look at its list.

    python -m bench.session_streams --streams 3000

One gateway with a core to itself, each stream of a session of its own with one unfinished job.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import time
from pathlib import Path

import psutil

from bench.streams import CLIENT_CORE, SETTLE_SECONDS, Delivery, connect, cpu, make_jobs, serving, warm_up
from growbin.local.parts.valkey import Valkey

PATH = "/api/v1/waste/events"
IDLE_SECONDS = 45.0  # three heartbeats and three slow looks of each stream


async def run(streams: int) -> None:
    os.sched_setaffinity(0, {CLIENT_CORE})
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        valkey = Valkey(Path(folder))
        await valkey.start()
        try:
            await valkey.ready()
            jobs = await make_jobs(valkey, streams)
            connections: list[asyncio.BaseTransport] = []
            async with serving("growbin", valkey) as (server, port):
                process = psutil.Process(server.pid)
                await warm_up(jobs, port, PATH)
                memory_bytes, cpu_seconds, began = process.memory_info().rss, cpu(process), time.monotonic()
                await connect(jobs, port, Delivery(), connections, PATH)
                connect_seconds = time.monotonic() - began
                connect_us = (cpu(process) - cpu_seconds) / streams * 1e6
                await asyncio.sleep(SETTLE_SECONDS)
                stream_kb = (process.memory_info().rss - memory_bytes) / streams / 1024
                cpu_seconds, began = cpu(process), time.monotonic()
                await asyncio.sleep(IDLE_SECONDS)
                share = (cpu(process) - cpu_seconds) / (time.monotonic() - began)
                alive = sum(not connection.is_closing() for connection in connections)
                for connection in connections:
                    connection.close()
        finally:
            await valkey.stop()
    print(
        f"{streams:,} session streams: {streams / connect_seconds:,.0f} connects/s, {connect_us:,.0f} µs a "
        f"connect, {stream_kb:.1f} KB a stream; idle {share:.1%} of a core; {alive:,} still open"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=3_000)
    asyncio.run(run(parser.parse_args().streams))
