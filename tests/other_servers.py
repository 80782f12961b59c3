"""The rows that speak to a broker or a Redis, on other releases of theirs: `make brokers`, `make redis`.

Each release is unpacked from Debian's packages into a folder of its own, with its own C library, so it runs
beside the one that is installed here, on whatever Debian this is, as anybody. Nothing is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".cache" / "servers"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ELF = b"\x7fELF"
BROKER_ROWS = ("tests/contract/test_job_queue.py", "tests/faults/test_broker_faults.py")
# Left out on Redis: the rows of a clock that jumps (it is preloaded, and a Redis with jemalloc does not start
# under it), and the one of a failover that sentinels coordinate, as only Valkey's do.
REDIS_ROWS = (
    "tests/contract/test_agenda.py",
    "tests/contract/test_budget.py",
    "tests/contract/test_job_records.py",
    "tests/contract/test_letters.py",
    "tests/contract/test_outages.py",
    "tests/contract/test_progress_feed.py",
    "tests/contract/test_progress_log.py",
    "tests/contract/test_redis_connection.py",
    "tests/contract/test_same_question.py",
    "tests/contract/test_session_jobs.py",
    "tests/contract/test_sessions.py",
    "tests/faults/test_redis_faults.py",
    "tests/faults/test_redis_failover.py",
    "--deselect=tests/faults/test_redis_failover.py::test_failover_by_sentinels_under_load_needs_nobody",
)


class CannotBeHad(Exception):
    """Says which program is missing, and why."""


@dataclass(frozen=True)
class Server:
    """A package of one of Debian's suites; `release` is how its version must begin."""

    suite: str
    package: str
    release: str
    rows: tuple[str, ...]


SERVERS = {
    "rabbitmq-3.10": Server("bookworm", "rabbitmq-server", "3.10.", BROKER_ROWS),
    "rabbitmq-4": Server("trixie", "rabbitmq-server", "4.", BROKER_ROWS),
    "redis-7": Server("bookworm", "redis-server", "5:7.", REDIS_ROWS),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", nargs="+", choices=SERVERS)
    parser.add_argument("--pytest", default=[], nargs=argparse.REMAINDER, help="more words for pytest")
    chosen = parser.parse_args()
    outcomes = {}
    for name in chosen.server:
        server = SERVERS[name]
        began = time.monotonic()
        try:
            version, environment = unpacked(server, FOLDER / name)
        except CannotBeHad as missing:
            print(f"{name} cannot be had: {missing}", file=sys.stderr)
            return 1
        print(f"{server.package} {version} on {' '.join(server.rows)}", flush=True)
        words = [sys.executable, "-m", "pytest", *server.rows, *chosen.pytest]
        code = subprocess.run(words, env={**os.environ, **environment}).returncode
        outcomes[f"{name} ({version})"] = code
        print(f"{name}: pytest ended with {code} after {time.monotonic() - began:.0f} s", flush=True)
    for name, code in outcomes.items():
        print(f"{name:<40}{'all rows passed' if code == 0 else 'FAILED'}")
    return int(any(outcomes.values()))


def unpacked(server: Server, folder: Path) -> tuple[str, Mapping[str, str]]:
    """Its version, and what the environment must say for the tests to use it. Once unpacked, it stays."""
    done, root = folder / "version", folder / "root"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        version = _download(server, folder / "apt", root)
        _run_beside(root)
        done.write_text(version)
    version = done.read_text()
    if not version.startswith(server.release):
        raise CannotBeHad(f"{server.suite} has {server.package} {version}, not {server.release}*")
    if server.package == "redis-server":
        return version, {"REDIS_SERVER": str(root / "usr/bin/redis-server")}
    [scripts] = root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin")
    path = os.pathsep.join([str(scripts), str(root / "usr/lib/erlang/bin"), os.environ["PATH"]])
    return version, {"PATH": path}


def _download(server: Server, apt: Path, root: Path) -> str:
    """Unpack the package with all that it needs, as apt would install it on an empty machine."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise CannotBeHad(f"it is unpacked from Debian's packages, and there is no {program} here")
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {server.suite} main\n")
    options = {
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Update::Post-Invoke": "",
        "APT::Update::Post-Invoke-Success": "",
        "Debug::NoLocking": "1",
    }
    words = [
        "apt-get",
        "-qq",
        *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
    ]
    _run([*words, "update"])
    _run([*words, "--yes", "--no-install-recommends", "--download-only", "install", server.package])
    packages = sorted((apt / "cache/archives").glob("*.deb"))
    for package in packages:
        _run(["dpkg-deb", "--extract", str(package), str(root)])
    [own] = [package for package in packages if package.name.startswith(f"{server.package}_")]
    shutil.rmtree(apt)
    return own.name.split("_")[1].replace("%3a", ":")


def _mirror() -> str:
    """Where this machine's own packages come from."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    sources = [line for line in _run(words).splitlines() if line.rstrip("/").endswith("/debian")]
    if not sources:
        raise CannotBeHad("this machine's packages do not come from a mirror of Debian")
    return sources[0]


def _run_beside(root: Path) -> None:
    """Programs of another Debian need that one's C library: each is started by its own loader."""
    loader = next(path for path in sorted(root.rglob("ld-linux*.so.*")) if not path.is_symlink())
    libraries = ":".join(sorted({str(path.parent) for path in root.rglob("lib*.so.*") if _is_for_all(path)}))
    for program in [path for path in root.rglob("*") if _is_program(path)]:
        inner = program.with_name(f"{program.name}.unpacked")
        program.rename(inner)
        # Some act by the name that they are called by.
        words = f'{loader} --library-path {libraries} --argv0 "$0" {inner} "$@"'
        program.write_text(f"#!/bin/sh\nexec {words}\n")
        program.chmod(0o755)
    erlang = root / "usr/lib/erlang"
    for script in [erlang / "bin/erl", *erlang.glob("erts-*/bin/erl")]:
        if script.exists():
            script.write_text(script.read_text().replace("=/usr/lib/erlang", f"={erlang}"))
    # It would take the loader's folder for Erlang's.
    for finder in erlang.glob("erts-*/bin/dyn_erl"):
        finder.unlink()


def _is_for_all(library: Path) -> bool:
    return library.parent.name.endswith("-linux-gnu") and library.parents[1].name == "lib"


def _is_program(path: Path) -> bool:
    is_ours = path.name.startswith("redis-") or "erlang" in path.parts
    if path.is_symlink() or not path.is_file() or not is_ours or not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        return ".so" not in path.name and file.read(len(ELF)) == ELF


def _run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise CannotBeHad(f"{words[0]} {words[-1]}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
