"""Put a job stream through the rules: `python -m tests.stream_conformance http://127.0.0.1:8080`.

The description says how jobs are made and where their stream is; growbin's own lies beside this file. The
exit status is 0 where no rule is broken, 1 where one is, 2 where the rules could not be tried.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import aiohttp

from tests.stream_conformance.any_service import AnyService
from tests.stream_conformance.description import GROWBIN, BadDescription, Description
from tests.stream_conformance.rules import RULES
from tests.stream_conformance.verdicts import LONGEST_RULE_SECONDS, name_of, table, verdicts_on


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stream_conformance", description=__doc__)
    parser.add_argument("url", help="where the service is, without a path")
    parser.add_argument(
        "--description", type=Path, default=GROWBIN, help="a TOML file; growbin's own if not given"
    )
    parser.add_argument("--restart", default="", help="a command that restarts the service")
    parser.add_argument("--rule", action="append", default=[], help="try this one only; may be repeated")
    parser.add_argument("--json", action="store_true", help="for machines")
    chosen = parser.parse_args()
    try:
        description = Description.read(chosen.description)
        if chosen.restart:
            description = description.model_copy(update={"restart": tuple(shlex.split(chosen.restart))})
        names = {name_of(rule): rule for rule in RULES}
        if unknown := set(chosen.rule) - names.keys():
            raise BadDescription(f"no such rule: {', '.join(unknown)}; there are: {', '.join(names)}")
        rules = [rule for name, rule in names.items() if not chosen.rule or name in chosen.rule]
        service = AnyService(chosen.url, description)
        asyncio.run(_look(service))
        verdicts = asyncio.run(verdicts_on(service, rules))
    except BadDescription as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    print(
        json.dumps([asdict(verdict) for verdict in verdicts], indent=2, ensure_ascii=False)
        if chosen.json
        else table(description.name, verdicts)
    )
    return int(any(verdict.outcome == "broken" for verdict in verdicts))


async def _look(service: AnyService) -> None:
    """One job is made first, so that a service that is not there is no verdict about its streams."""
    try:
        async with asyncio.timeout(LONGEST_RULE_SECONDS), service.person() as person:
            await person.create()
    except (aiohttp.ClientError, OSError) as error:
        raise BadDescription(f"{service.base_url} cannot be asked: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
