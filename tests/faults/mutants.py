r"""`make mutants`: each control is taken out, and the row that watches over it must fail.

A mutant is a patch under mutants/. Its first lines say what it takes out, which row has to notice, and a
pattern of what the row then says (a row with a parameter is named as pytest does, `...::test_x[case]`):

    # control: the lease token is compared before anything is appended
    # row: tests/faults/test_redis_faults.py::test_lapsed_lease_fences_its_old_holder
    # fails: assert .* == \[2, 2\]

A row that fails for another reason (a part that does not start, a bug in the patch) proves nothing. A row
that stands elsewhere than beside this file is run by pytest.

The mutants are applied to a copy of the tree, one after the other, on one set of servers; the processes run
the copy, in an environment made for it. Each row must also pass without its mutant, or its failure would
prove nothing either. `python -m tests.faults.mutants [WORD...]` takes only the mutants with such a word in
their names. `AT_ONCE=2` shares the rows among so many copies, each with servers of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import venv
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from tests.faults.cluster import Servers

ROOT = Path(__file__).parents[2]
PATCHES = Path(__file__).with_name("mutants")
COPIED = ("src", "tests", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "node_modules", "*.pyc")
ROW_SECONDS = 150.0
AT_ONCE = int(os.environ.get("AT_ONCE", "1"))

Row = Callable[[Servers], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Mutant:
    name: str
    control: str
    row: str
    fails: re.Pattern[str]
    patch: Path

    @classmethod
    def read(cls, patch: Path) -> Mutant:
        said = dict(re.findall(r"^# (control|row|fails): (.+)$", patch.read_text(), re.MULTILINE))
        return cls(patch.stem, said["control"], said["row"], re.compile(said["fails"]), patch)

    def load_row(self) -> Row:
        path, _, name = self.row.partition("::")
        if not path.startswith("tests/faults/"):
            return partial(run_by_pytest, self.row)
        name, _, case = name.removesuffix("]").partition("[")
        function: Any = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
        if case:
            (mark,) = (mark for mark in function.pytestmark if mark.name == "parametrize")
            parameter, values = mark.args
            value = dict(zip(mark.kwargs["ids"], values, strict=True))[case]
            function = partial(function, **{parameter: value})
        row: Row = function
        return row


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    before: str  # what failed without it; empty: nothing, as it should be
    after: str  # what failed with it; empty: it survived
    seconds: float

    @property
    def is_caught(self) -> bool:
        return not self.before and self.mutant.fails.search(self.after) is not None


# --- in the tree as it is -----------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    """Copy the tree, make an environment whose growbin is the copy, and go on in there."""
    with tempfile.TemporaryDirectory(prefix="growbin-mutants-") as folder:
        running: list[subprocess.Popen[bytes]] = []
        for share in range(AT_ONCE):
            tree = Path(folder, f"tree-{share}")
            tree.mkdir()
            for name in COPIED:
                source = ROOT / name
                if source.is_dir():
                    shutil.copytree(source, tree / name, ignore=LEFT_OUT)
                else:
                    shutil.copy2(source, tree / name)
            python = make_environment(Path(folder, f"venv-{share}"), tree / "src")
            command = [str(python), "-m", "tests.faults.mutants", "--inside", str(share), *words]
            running.append(subprocess.Popen(command, cwd=tree))
        return max(process.wait() for process in running)


def make_environment(folder: Path, sources: Path) -> Path:
    """A Python that has our packages and finds growbin in `sources`. A path file is honoured even by the
    photo children, which run isolated; those of our own environment are not, and one leads to our growbin."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    paths = [sources, *dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))]
    (site / "mutants.pth").write_text("".join(f"{path}\n" for path in paths))
    for program in Path(sysconfig.get_path("scripts")).iterdir():  # weed and others are looked for beside us
        own = folder / "bin" / program.name
        if not own.exists() and not program.name.startswith(("python", "activate", "growbin")):
            own.symlink_to(program)
    return folder / "bin" / "python"


# --- inside the copy ----------------------------------------------------------------------------


async def run(mutants: Sequence[Mutant]) -> list[Verdict]:
    verdicts: list[Verdict] = []
    passed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="growbin-faults-") as folder:
        async with Servers.running(Path(folder)) as servers:
            for mutant in mutants:
                began = time.monotonic()
                if mutant.row not in passed:
                    passed[mutant.row] = await failure_of(mutant.load_row(), servers)
                with applied(mutant.patch):
                    after = await failure_of(mutant.load_row(), servers)
                verdicts.append(Verdict(mutant, passed[mutant.row], after, time.monotonic() - began))
                print(told(verdicts[-1]), flush=True)
    return verdicts


async def failure_of(row: Row, servers: Servers) -> str:
    """Why the row fails now, line by line; empty when it passes."""
    limit = asyncio.timeout(ROW_SECONDS)
    try:
        with redirect_stdout(io.StringIO()):
            async with limit:
                await row(servers)
    except Exception as error:  # noqa: BLE001  # a row may fail in any way
        if limit.expired():
            return f"not over within {ROW_SECONDS:g} s"
        where = next(
            (
                frame
                for frame in reversed(traceback.extract_tb(error.__traceback__))
                if "/test_" in frame.filename
            ),
            None,
        )
        said = [" ".join(line.split()) for line in str(error).splitlines()]
        said = [line for line in said if line and not line.endswith("are broken:")]
        return "\n".join(said) or f"{type(error).__name__}: {where.line if where else ''}"
    return ""


async def run_by_pytest(row: str, _servers: Servers) -> None:
    """A row that starts itself whatever it needs."""
    command = (sys.executable, "-m", "pytest", "-q", "--tb=short", row)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=STDOUT)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)  # so that it stops what it has started
            await process.wait()
    if process.returncode:
        said = output.decode(errors="replace")
        raise AssertionError("\n".join(re.findall(r"^E +(.+)$", said, re.MULTILINE)) or said)


@contextmanager
def applied(patch: Path) -> Iterator[None]:
    """The copy with the patch."""
    apply = ["git", "apply"]
    done = subprocess.run([*apply, str(patch)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{patch.name} does not fit the code any more:\n{done.stderr}")
    try:
        yield
    finally:
        subprocess.run([*apply, "--reverse", str(patch)], cwd=ROOT, check=True)


def told(verdict: Verdict) -> str:
    mutant = verdict.mutant
    if verdict.before:
        outcome, why = "NO PROOF", f"the row fails without it: {verdict.before}"
    elif verdict.is_caught:
        outcome, why = "caught", next(filter(mutant.fails.search, verdict.after.splitlines()))[:150]
    elif verdict.after:
        outcome, why = "OTHER", f"the row fails for another reason: {verdict.after}"
    else:
        outcome, why = "SURVIVED", "the row passes without the control"
    row = mutant.row.rpartition("::")[2]
    return f"{outcome:<9} {mutant.name:<24} {row} ({verdict.seconds:.0f} s)\n{indent(why, ' ' * 10)}"


def inside(share: int, words: Sequence[str]) -> int:
    """The mutants of every so-manieth row."""
    pytest.Config.fromdictargs({}, [])  # in modules imported from here on, assertions say what they found
    mutants = [Mutant.read(patch) for patch in sorted(PATCHES.glob("*.patch"))]
    chosen = [mutant for mutant in mutants if not words or any(word in mutant.name for word in words)]
    rows = list(dict.fromkeys(mutant.row for mutant in chosen))[share::AT_ONCE]
    verdicts = asyncio.run(run([mutant for mutant in chosen if mutant.row in rows]))
    caught = sum(verdict.is_caught for verdict in verdicts)
    print(f"\n{caught} of {len(verdicts)} mutants caught, {sum(item.seconds for item in verdicts):.0f} s")
    return 0 if chosen and caught == len(verdicts) else 1


if __name__ == "__main__":
    arguments = sys.argv[1:]
    is_inside = arguments[:1] == ["--inside"]
    sys.exit(inside(int(arguments[1]), arguments[2:]) if is_inside else main(arguments))
