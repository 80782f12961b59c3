"""What the benchmarks have in common: programs started and their CPU read, rounds taken in turn, and the
report: every value, medians, ratios and their spread, as a table, as JSON and as a picture."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import aiohttp
import psutil
from PIL import Image, ImageDraw, ImageFont

from growbin.local.child import draw_port
from tests.load_profile import LOAD_PROFILE
from tests.processes import Stack, command, environment, tail

ROOT = Path(__file__).parents[1]
OURS = "growbin"
ROUNDS, QUICK_ROUNDS = 5, 2
READY_SECONDS = 60
STOP_SECONDS = 30
Turn = TypeVar("Turn")


# --- one benchmark ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dose:
    rounds: int
    is_quick: bool
    folder: Path


@dataclass(frozen=True, slots=True)
class Round:
    """What one design cost in one case, in one turn."""

    case: str
    design: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bound for our figure, or for its ratio to another design's."""

    figure: str
    most: float
    design: str = OURS
    case: str | None = None  # None: each
    always: bool = False  # in each round, not in their median alone

    def fits(self, figure: str, design: str, case: str) -> bool:
        return (self.figure, self.design) == (figure, design) and self.case in (None, case)


def parser_of(description: str | None, rounds: int = ROUNDS) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help=f"default: {rounds}, quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds of less: a look")
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="for JSON and pictures")
    return parser


def dose_of(given: argparse.Namespace, rounds: int = ROUNDS) -> Dose:
    return Dose(given.rounds or (QUICK_ROUNDS if given.quick else rounds), given.quick, given.folder)


def start(
    name: str, measured: Callable[[Dose], AsyncIterator[Round]], description: str | None, *wanted: Wanted
) -> NoReturn:
    """Take all rounds and report them; ends with 1 where something that was wanted is missed."""
    dose = dose_of(parser_of(description).parse_args())

    async def all_rounds() -> list[Round]:
        rounds = []
        async for one in measured(dose):
            print(one, file=sys.stderr, flush=True)
            rounds.append(one)
        return rounds

    sys.exit(0 if report(name, asyncio.run(all_rounds()), wanted, dose.folder) else 1)


# --- programs -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cpu:
    """In seconds, user and system, since the program began."""

    own: float
    other_threads: float  # among `own`: of all threads but the first
    children: float

    def __sub__(self, earlier: Cpu) -> Cpu:
        return Cpu(
            self.own - earlier.own,
            self.other_threads - earlier.other_threads,
            self.children - earlier.children,
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A process of ours that is measured."""

    process: psutil.Process

    def cpu(self) -> Cpu:
        """Its own to the nanosecond, by its clock; of the others in the kernel's ticks of 10 ms."""
        threads = [one for one in self.process.threads() if one.id != self.process.pid]
        children = [one.cpu_times() for one in self.process.children(recursive=True)]
        return Cpu(
            own=time.clock_gettime(~self.process.pid << 3 | 2),  # as clock_getcpuclockid() numbers it
            other_threads=sum(one.user_time + one.system_time for one in threads),
            children=sum(one.user + one.system for one in children),
        )

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It does nothing, and costs nothing, while the block runs."""
        processes = [self.process, *self.process.children(recursive=True)]
        for one in processes:
            one.suspend()
        try:
            yield
        finally:
            for one in processes:
                one.resume()

    def resident_bytes(self) -> int:
        return int(self.process.memory_info().rss)


@asynccontextmanager
async def program(
    words: Sequence[str], settings: Mapping[str, str], ready_url: str | None = None
) -> AsyncIterator[Program]:
    """Run `words` with nothing but these settings, from when `ready_url` answers 200."""
    with tempfile.NamedTemporaryFile(prefix="bench-", suffix=".log") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # starting takes a moment, and Popen needs no loop
            words,
            cwd=ROOT,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            if ready_url:
                await _until_ready(process, ready_url)
            yield Program(psutil.Process(process.pid))
        except BaseException:
            print(f"{' '.join(words)} said:\n{tail(Path(log.name))}", file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, STOP_SECONDS)
            process.kill()
            process.wait()


async def _until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession() as http:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"ended with {process.returncode} before it was ready")
            with suppress(aiohttp.ClientError):
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


def growbin(
    role: str, settings: Mapping[str, str], words: Sequence[str] = ()
) -> AbstractAsyncContextManager[Program]:
    """The gateway or the consumer as it is, or as `words` start it, with room for a load from one address."""
    settings = {**settings, **LOAD_PROFILE, "PROBE_PORT": str(draw_port())}
    return program(words or command(role), settings, f"http://127.0.0.1:{settings['PROBE_PORT']}/readyz")


@contextmanager
def parts(**chosen: str) -> Iterator[Stack]:
    """RabbitMQ, Valkey, SeaweedFS and nginx, one for all that is compared."""
    with tempfile.TemporaryDirectory(prefix="growbin-bench-") as folder:
        stack = Stack(Path(folder), command("stack", "--parts-only"), **chosen)
        try:
            stack.wait_until_ready()
            yield stack
        finally:
            stack.stop_in_a_hurry()  # its data is thrown away


def in_turn(designs: Sequence[Turn], rounds: int) -> Iterator[Turn]:
    """Each once a round; another begins each round."""
    for number in range(rounds):
        first = number % len(designs)
        yield from (*designs[first:], *designs[:first])


# --- report -------------------------------------------------------------------------------------


def report(name: str, rounds: Sequence[Round], wanted: Sequence[Wanted], folder: Path) -> bool:
    """Print all, keep it as JSON and as a picture; True when all that was wanted is reached."""
    print(f"\n## {name}: {machine()}\n")
    for table in (raw_table, median_table):
        print("\n".join(table(rounds)), end="\n\n")
    ratios = list(ratios_of(rounds, wanted))
    print("\n".join(ratio_table(ratios)), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "name": name,
        "machine": machine(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": [asdict(one) for one in rounds],
        "ratios": [asdict(one) for one in ratios],
    }
    (folder / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n")
    picture(name, rounds).save(folder / f"{name}.png")
    return all(one.is_reached for one in ratios)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to another's, or ours alone: a value for each round."""

    case: str
    figure: str
    design: str
    values: Sequence[float]
    wanted: Wanted | None

    @property
    def is_reached(self) -> bool:
        if self.wanted is None:
            return True
        told = max(self.values) if self.wanted.always else statistics.median(self.values)
        return told <= self.wanted.most


def ratios_of(rounds: Sequence[Round], wanted: Sequence[Wanted]) -> Iterator[Ratio]:
    """Of each design's turns with ours beside them; of ours by themselves where they have a bound."""
    grouped = by_case_and_design(rounds)
    for (case, design), theirs in grouped.items():
        for figure in theirs[0].figures:
            bound = next((one for one in wanted if one.fits(figure, design, case)), None)
            values = [one.figures[figure] for one in theirs]
            if design != OURS and all(values):
                ours = [one.figures[figure] for one in grouped[case, OURS]]
                yield Ratio(
                    case, figure, design, [mine / one for mine, one in zip(ours, values, strict=True)], bound
                )
            elif design == OURS and bound:
                yield Ratio(case, figure, design, values, bound)


def by_case_and_design(rounds: Sequence[Round]) -> dict[tuple[str, str], list[Round]]:
    grouped: dict[tuple[str, str], list[Round]] = {}
    for one in rounds:
        grouped.setdefault((one.case, one.design), []).append(one)
    return grouped


def raw_table(rounds: Sequence[Round]) -> Iterator[str]:
    for (case, design), many in by_case_and_design(rounds).items():
        for figure in many[0].figures:
            values = " ".join(short(one.figures[figure]) for one in many)
            yield f"{case} | {design} | {figure}: {values}"


def median_table(rounds: Sequence[Round]) -> Iterator[str]:
    figures = list(rounds[0].figures)
    yield f"| case | design | {' | '.join(figures)} |"
    yield f"|---|---|{'---|' * len(figures)}"
    for (case, design), many in by_case_and_design(rounds).items():
        cells = [spread([one.figures[figure] for one in many]) for figure in figures]
        yield f"| {case} | {design} | {' | '.join(cells)} |"


def ratio_table(ratios: Sequence[Ratio]) -> Iterator[str]:
    if not ratios:
        return
    yield "| case | figure | of | median [least..most] of the rounds | wanted |"
    yield "|---|---|---|---|---|"
    for one in ratios:
        what = OURS if one.design == OURS else f"{OURS} / {one.design}"
        verdict = "reached" if one.is_reached else "missed"
        bound = f"≤ {short(one.wanted.most)}: {verdict}" if one.wanted else ""
        yield f"| {one.case} | {one.figure} | {what} | {spread(one.values)} | {bound} |"


def spread(values: Sequence[float]) -> str:
    """The median, with the smallest and the largest where they differ."""
    middle = short(statistics.median(values))
    if min(values) == max(values):
        return middle
    return f"{middle} [{short(min(values))}..{short(max(values))}]"


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def machine() -> str:
    """What the figures depend on."""
    chip = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        chip = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    system = (
        platform.freedesktop_os_release()["PRETTY_NAME"] if sys.platform == "linux" else platform.platform()
    )
    return (
        f"{os.cpu_count()} cores ({chip or platform.machine()}), {system}, Python {platform.python_version()}"
    )


# --- picture ------------------------------------------------------------------------------------

MARGIN, NAME_WIDTH, BAR_WIDTH, BAR_HEIGHT, VALUE_WIDTH = 24, 220, 560, 26, 200  # pixels
INK, PAPER, BAR_COLOUR, DOT_COLOUR = (30, 34, 40), (255, 255, 255), (150, 200, 175), (38, 100, 70)


def picture(name: str, rounds: Sequence[Round]) -> Image.Image:
    """A bar for the median of each figure, a dot for each round."""
    groups = by_case_and_design(rounds)
    figures = list(rounds[0].figures)
    lines = len(figures) * (len(groups) + 2)
    image = Image.new(
        "RGB", (2 * MARGIN + NAME_WIDTH + BAR_WIDTH + VALUE_WIDTH, 2 * MARGIN + lines * BAR_HEIGHT), PAPER
    )
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    y = MARGIN
    for figure in figures:
        pen.text((MARGIN, y), f"{name}: {figure}", INK, ImageFont.load_default(16))
        y += BAR_HEIGHT
        most = max(one.figures[figure] for one in rounds) or 1
        for (case, design), many in groups.items():
            values = [one.figures[figure] for one in many]
            left, middle = MARGIN + NAME_WIDTH, y + BAR_HEIGHT // 2
            pen.text((MARGIN, middle), f"{case} {design}", INK, font, anchor="lm")
            right = left + statistics.median(values) / most * BAR_WIDTH
            pen.rectangle((left, y + 4, right, y + BAR_HEIGHT - 4), BAR_COLOUR)
            for value in values:
                x = left + value / most * BAR_WIDTH
                pen.ellipse((x - 3, middle - 3, x + 3, middle + 3), DOT_COLOUR)
            pen.text((left + BAR_WIDTH + 10, middle), spread(values), INK, font, anchor="lm")
            y += BAR_HEIGHT
        y += BAR_HEIGHT
    return image
