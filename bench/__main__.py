"""The benchmarks, each a process of its own, beside its references:

make bench                           all of them, in full
make bench ARGS=--quick              all of them, in short
make bench ARGS="jobs --rounds 3"    one of them
"""

from __future__ import annotations

import argparse
import subprocess
import sys

BENCHMARKS = {
    "jobs": "a whole job",
    "routes": "each call of the gateway",
    "consumers": "a consumer by itself, beside other people's",
    "preparation": "a photo made ready for the model",
    "latency": "how long a person waits beyond the model",
    "memory": "a job in flight",
    "starting": "a process before its first request",
    "stalls": "how long the event loops serve nobody else",
    "session_streams": "a session's stream while nothing happens",
    "streams": "a stream that is open",
    "observation": "metrics, logs and traces",
    "scale": "how all this grows",
    "slope": "the consumer's memory over very many jobs",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        epilog="\n".join(f"{name:<16} {what}" for name, what in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="default: all; the options are those of each benchmark")
    given, options = parser.parse_known_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    codes = [
        subprocess.run([sys.executable, "-m", f"bench.{name}", *options], check=False).returncode
        for name in given.names or BENCHMARKS
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
