"""What photos from strangers may cost: a corpus of hostile and odd ones through a child that cleans photos,
and what an ordinary photo waits while somebody sends the worst of them.

    make photos                              some minutes
    make photos ARGS="--images folder"       and every file of a folder, such as Pillow's own test images

Exits with 1 when a bound is broken: anything but a photo or a failure code, more than 5 s, more than 400 MB,
or a word of the metadata in what comes out.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
from PIL import Image

from growbin.adapters.photo_cleaner import ChildPhotoCleaner
from growbin.errors import JobFailed
from tests.hostile_photos import CANARY, corpus, costly, encoded, noise

MOST_SECONDS, MOST_MEGABYTES = 5.0, 400.0
WORST_AT_ONCE = 4
SLOWEST_SHOWN = 8
ORDINARY_TIMES = 15


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make photos")
    parser.add_argument("--images", type=Path, help="a folder of further photos")
    images: Path | None = parser.parse_args().images
    is_bounded = await _bounded(images)
    await _beside_the_worst()
    return 0 if is_bounded else 1


async def _bounded(images: Path | None) -> bool:
    """One photo after another through one child."""
    outcomes: Counter[str] = Counter()
    costs: list[tuple[float, float, str, str]] = []
    told: list[str] = []
    began = time.perf_counter()
    async with ChildPhotoCleaner.open(max_pixels=200_000_000, max_side=1024, children=1) as cleaner:
        for name, data in itertools.chain(corpus(), _files(images)):
            _forget_peak()
            photo_began = time.perf_counter()
            try:
                photo = await cleaner.clean(data, "image/jpeg")
                outcome = "cleaned"
                if CANARY.encode() in photo.data:
                    told.append(name)
            except JobFailed as failed:
                outcome = failed.code
            except Exception as error:  # noqa: BLE001  # this is what is looked for
                outcome = f"escaped: {error!r}"
            outcomes[outcome] += 1
            costs.append((time.perf_counter() - photo_began, _peak_megabytes(), outcome, name))
    slowest, largest = max(costs)[0], max(cost[1] for cost in costs)
    print(f"{len(costs):,} photos in {time.perf_counter() - began:.0f} s: {dict(outcomes.most_common())}")
    print(f"slowest {slowest:.2f} s, largest child {largest:.0f} MB, metadata told by {told or 'none'}")
    for seconds, megabytes, outcome, name in sorted(costs, reverse=True)[:SLOWEST_SHOWN]:
        print(f"  {seconds:5.2f} s {megabytes:4.0f} MB  {outcome:18} {name}")
    has_escaped = any(outcome.startswith("escaped") for outcome in outcomes)
    return not has_escaped and not told and slowest <= MOST_SECONDS and largest <= MOST_MEGABYTES


async def _beside_the_worst() -> None:
    """An ordinary photo of one person, alone and while another sends the worst, four at a time."""
    ordinary = encoded(noise(4032, 3024), "JPEG", quality=30)
    worst = dict(costly())["scans/refining-75"]
    async with ChildPhotoCleaner.open(max_pixels=200_000_000, max_side=1024) as cleaner:

        async def take(owner: str, address: str, data: bytes) -> float:
            began = time.perf_counter()
            await cleaner.clean(data, "image/jpeg", owner=owner, address=address)
            return time.perf_counter() - began

        async def send_worst(owner: str) -> None:
            while True:
                await take(owner, "away", worst)

        async def ordinary_seconds() -> float:
            return statistics.median([await take("me", "home", ordinary) for _ in range(ORDINARY_TIMES)])

        await ordinary_seconds()
        quiet = await ordinary_seconds()
        print(f"an ordinary photo (12 megapixels, {len(ordinary) / 1e6:.1f} MB), quiet: {quiet:.3f} s")
        for whose, owners in (
            ("of one session", ["they"] * WORST_AT_ONCE),
            ("of four sessions at one address", [f"they-{number}" for number in range(WORST_AT_ONCE)]),
        ):
            sending = [asyncio.create_task(send_worst(owner)) for owner in owners]
            await asyncio.sleep(1)
            beside = await ordinary_seconds()
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
            print(
                f"  beside {WORST_AT_ONCE} of the worst {whose}: {beside:.3f} s, {beside / quiet:.2f} times"
            )


def _files(folder: Path | None) -> Iterator[tuple[str, bytes]]:
    if folder:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path.read_bytes()


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def _forget_peak() -> None:
    for child in _children():
        Path(f"/proc/{child.pid}/clear_refs").write_text("5")


def _peak_megabytes() -> float:
    """Of the child that is there now; one that was ended over its photo had no more than its limit."""
    peaks = [0.0]
    for child in _children():
        lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        peaks += [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")]
    return max(peaks)


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None
    sys.exit(asyncio.run(main()))
