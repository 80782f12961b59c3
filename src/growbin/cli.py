"""The commands. Imports are lazy, so that `growbin --help` is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from growbin.config import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = parser().parse_args(arguments)
    try:
        status: int = given.run(given)
    except KeyboardInterrupt:  # before the command could set its own handler
        return 130
    return status


def parser() -> argparse.ArgumentParser:
    """Of the command line: all commands, and what each is given."""
    root = argparse.ArgumentParser(
        prog="growbin", description="A photo of waste in; which bin, and how, out."
    )
    root.add_argument("--version", action=_Version, nargs=0, help="show the version and end")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")

    _add_analyze(
        commands.add_parser("analyze", help="photos from this terminal: progress bars, then the advice")
    )

    gateway = commands.add_parser("gateway", help="HTTP API, demo page, progress streams")
    gateway.set_defaults(run=_serve)

    consumer = commands.add_parser("consumer", help="photo -> analysis -> advice -> progress")
    consumer.set_defaults(run=_serve)

    stack = commands.add_parser("stack", help="start everything locally, for development")
    stack.add_argument("--data", type=Path, default=Path("var"), help="folder of the parts' data and logs")
    stack.add_argument("--port", type=_port, default=8080, help="port of the gateway")
    stack.add_argument("--parts-only", action="store_true", help="without gateway and consumer")
    stack.add_argument(
        "--env-file",
        type=Path,
        help="write the settings of the started parts here; default: stack.env in the data folder",
    )
    stack.set_defaults(run=_stack)

    letters = commands.add_parser(
        "dead-letters", help="look at jobs that could not be done, and drive them again"
    )
    _add_actions(letters)

    redrive = commands.add_parser("redrive", help="drive jobs again that an outage ended")
    redrive.add_argument("--job", type=UUID, help="this one")
    redrive.add_argument("--code", help="those that ended so: temporarily_unavailable, expired, ...")
    redrive.add_argument("--since", help="those that ended in the last 90s, 30m, 2h, 1d")
    redrive.add_argument("--dry-run", action="store_true", help="only say which")
    redrive.set_defaults(run=_redrive)

    doctor = commands.add_parser("doctor", help="try every part, and say what to do where one is not well")
    doctor.add_argument(
        "--as",
        dest="role",
        choices=("gateway", "consumer"),
        help="only what this process may reach, as in its pod",
    )
    doctor.add_argument("--json", action="store_true", help="for machines")
    doctor.set_defaults(run=_doctor)

    _add_evaluate(commands.add_parser("evaluate", help="how often a model is right about labelled photos"))

    _add_costs(commands.add_parser("costs", help="what a month of photos costs, and on what that stands"))

    model = commands.add_parser("model-server", help="the embedded model behind an OpenAI-compatible API")
    model.add_argument("--host", default="127.0.0.1")
    model.add_argument("--port", type=_port, required=True)
    model.set_defaults(run=_model_server)
    return root


class _Version(argparse.Action):
    """Looked up only when it is asked for: that takes longer than the rest of `--help`."""

    def __call__(self, parser: argparse.ArgumentParser, *_values: object) -> None:
        from importlib.metadata import version

        print(f"growbin {version('growbin')}")
        parser.exit()


def _add_analyze(analyze: argparse.ArgumentParser) -> None:
    analyze.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    analyze.add_argument(
        "--server",
        help="address of the gateway; default: GROWBIN_SERVER, else what var/stack.env in this folder names",
    )
    analyze.add_argument("--question", help="a question about the photos, up to 500 characters")
    analyze.add_argument(
        "--locale", choices=("ko", "en"), help="language of the advice; default: the terminal's"
    )
    analyze.add_argument("--json", action="store_true", help="one object a line instead of a table")
    analyze.set_defaults(run=_analyze)


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument(
        "source", type=Path, metavar="FOLDER", help="a folder of photos for each label, or a manifest"
    )
    evaluate.add_argument(
        "--results", type=Path, metavar="FILE.jsonl", help="keep answers; ask no photo twice"
    )
    evaluate.add_argument("--compare", type=Path, metavar="OTHER.jsonl", help="with another model's results")
    evaluate.add_argument("--picture", type=Path, metavar="FILE.png", help="matrix and reliability diagram")
    evaluate.add_argument("--limit", type=_count, metavar="N", help="a sample of so many photos")
    evaluate.add_argument("--seed", type=int, default=0, help="another seed, another sample")
    evaluate.add_argument("--concurrency", type=_count, default=2, help="photos at once")
    evaluate.add_argument("--json", action="store_true", help="for machines")
    evaluate.set_defaults(run=_evaluate)


def _add_costs(costs: argparse.ArgumentParser) -> None:
    costs.add_argument("--photos", type=_count, metavar="N", help="photos a month; default: 10,000")
    for name, text in (
        ("photo-mb", "size of a photo as it comes"),
        ("clean-mb", "size of a photo after hygiene"),
        ("views", "how often people look at a photo afterwards"),
        ("hits", "share of these views that the edge has"),
        ("repeated", "share of photos that the same session has sent before"),
        ("call-usd", "price of a call, instead of tokens and the table of prices"),
        ("pods-cpu", "vCPUs of consumers and gateways"),
        ("broker-cpu", "vCPUs of the broker"),
    ):
        costs.add_argument(f"--{name}", type=_amount, metavar="X", help=text)
    for name in ("input-tokens", "output-tokens", "redis-nodes"):
        costs.add_argument(f"--{name}", type=_count, metavar="N")
    costs.add_argument("--picture", type=Path, metavar="FILE.png", help="the bills as bars")
    costs.add_argument("--json", action="store_true", help="for machines")
    costs.set_defaults(run=_costs)


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount from 0 on")
    return amount


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def _add_actions(letters: argparse.ArgumentParser) -> None:
    actions = letters.add_subparsers(required=True, metavar="ACTION")
    for action, text in (
        ("list", "one line a letter"),
        ("show", "the whole letter, and its job as it is now"),
        ("redrive", "begin a new run of a failed job whose photo is still there"),
        ("drop", "remove the letter; its job stays as it ended"),
    ):
        choice = actions.add_parser(action, help=text)
        which = choice.add_mutually_exclusive_group(required=action in ("redrive", "drop"))
        which.add_argument("--job", type=UUID, help="of this job")
        which.add_argument("--reason", help="that died of this: rejected, delivery_limit, ...")
        which.add_argument("--all", action="store_true", help="every letter")
        choice.set_defaults(run=_dead_letters, action=action)


def _load_settings(given: argparse.Namespace) -> Settings:
    """The settings; a bad one ends us here, before anything else is imported."""
    from growbin.config import BadSetting, load_settings, near_misses

    for sentence in near_misses():
        print(f"growbin {given.command}: {sentence}", file=sys.stderr)
    try:
        return load_settings()
    except BadSetting as error:
        print(f"growbin {given.command}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _load_settings_here(given: argparse.Namespace) -> Settings:
    """The same, with those of the stack that runs here, where the environment names no other parts."""
    from growbin.config import use_stack_file

    if file := use_stack_file():
        print(f"growbin {given.command}: on the stack of {file}", file=sys.stderr)
    return _load_settings(given)


def _serve(given: argparse.Namespace) -> int:
    settings = _load_settings(given)
    from growbin.wiring.parts import CannotStart, run_until_stopped

    if given.command == "gateway":
        from growbin.wiring.gateway import run_gateway as serve
    else:
        from growbin.wiring.consumer import run_consumer as serve
    try:
        return run_until_stopped(serve, settings, given.command)
    except CannotStart as error:
        print(f"growbin {given.command}: {error}", file=sys.stderr)
        return 1


def _dead_letters(given: argparse.Namespace) -> int:
    settings = _load_settings_here(given)
    from growbin.wiring.dead_letters import run_dead_letters

    return run_dead_letters(settings, given.action, given.job, given.reason, print)


def _redrive(given: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from growbin.commands.redrive import EndedSelection, since

    if not (given.job or given.code or given.since):
        print("growbin redrive: say which jobs: --job, --code or --since", file=sys.stderr)
        return 2
    try:
        begin = since(given.since, datetime.now(UTC)) if given.since else None
    except ValueError as error:
        print(f"growbin redrive: --since {error}", file=sys.stderr)
        return 2
    settings = _load_settings_here(given)
    from growbin.wiring.redrive import run_redrive

    return run_redrive(settings, EndedSelection(given.job, given.code, begin), print, is_dry=given.dry_run)


def _doctor(given: argparse.Namespace) -> int:
    settings = _load_settings_here(given)
    from growbin.wiring.doctor import run_doctor

    return run_doctor(settings, print, given.role, as_json=given.json)


def _evaluate(given: argparse.Namespace) -> int:
    settings = _load_settings(given)
    from growbin.commands.evaluate import Wishes
    from growbin.wiring.evaluate import run_evaluate

    wishes = Wishes(
        source=given.source,
        results=given.results,
        compare=given.compare,
        picture=given.picture,
        limit=given.limit,
        seed=given.seed,
        concurrency=given.concurrency,
        as_json=given.json,
    )
    return run_evaluate(settings, wishes, partial(print, file=sys.stderr))


def _costs(given: argparse.Namespace) -> int:
    settings = _load_settings(given)
    from growbin.commands.costs import Month, NoPrice, as_json, as_table, save_picture
    from growbin.usage import BadPrices, load_prices

    asked = {field.name: getattr(given, field.name) for field in fields(Month)}
    month = Month(**{name: value for name, value in asked.items() if value is not None})
    try:
        price = load_prices(settings.prices_file).of(settings.openai_model)
        told = as_json(month, price) if given.json else as_table(month, price)
        if given.picture:
            save_picture(month, price, given.picture)
    except (BadPrices, NoPrice, OSError) as error:
        print(f"growbin costs: {error}", file=sys.stderr)
        return 1
    print(told, end="")
    return 0


def _analyze(given: argparse.Namespace) -> int:
    from growbin.commands.analyze import main as analyze
    from growbin.config import server_address

    return analyze(
        given.photos, given.server or server_address(), given.question, given.locale, as_json=given.json
    )


def _stack(given: argparse.Namespace) -> int:
    _load_settings(given)  # a bad one would end each of the processes, in a log that nobody has open
    from growbin.wiring.stack import run_stack

    return run_stack(data=given.data, port=given.port, parts_only=given.parts_only, env_file=given.env_file)


def _model_server(given: argparse.Namespace) -> int:
    from growbin.config import embedded_model_key
    from growbin.embedded_model.server import main as serve

    return serve(given.host, given.port, embedded_model_key())
