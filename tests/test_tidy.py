"""The shape of the repository: what import contracts, types and lint cannot say."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.load_profile import LOAD_PROFILE

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"

VAGUE_NAMES = {"base", "common", "core", "helper", "helpers", "manager", "misc", "tools", "util", "utils"}
UNITS = re.compile(r"_(seconds|ms|bytes|pixels|percent)$")
QUANTITIES = {
    "deadline",
    "delay",
    "duration",
    "grace",
    "interval",
    "period",
    "size",
    "timeout",
    "ttl",
    "wait",
}
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
METRICS = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}

# They may only be made smaller.
LONGEST_MODULE_LINES = 400
LONGEST_FUNCTION_LINES = 60
MOST_PORT_METHODS = 8

# Each such fact stands in one place, and in the settings where people choose it.
TABLES_OF_LIFETIMES = {
    "config.py",
    "job.py",
    "adapters/redis/keys.py",
    "adapters/rabbitmq/topology.py",
    "local/parts/nginx.py",  # where the CDN's default is that of a part
}
DAY_SECONDS = 24 * 3600

# Spelled in two halves, so that this file passes its own test.
MACHINE_PATHS = re.compile(
    r"(?<![\w.<-])/(wo" + r"rk|ho" + r"me/(?!linuxbrew)\w+|ro" + r"ot|Us" + r"ers/\w+)/"
)
MODEL_NAMES = re.compile(r"\b(?:chatgpt|gpt-?\d|o[134](?:-mini)?\b)", re.IGNORECASE)
REGISTRY_HOSTS = re.compile(
    "pypi" + r"\.org|python" + r"hosted\.org|npm" + r"js\.(org|com)|debian" + r"\.org"
)


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def place(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}" + (f":{getattr(node, 'lineno', '')}" if node else "")


def imported_names(path: Path) -> Iterator[str]:
    """Each imported module, and each name taken from a module as if it were a module."""
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def attributes_used(*paths: Path) -> set[str]:
    return {node.attr for path in paths for node in ast.walk(syntax(path)) if isinstance(node, ast.Attribute)}


def tracked_texts() -> Iterator[tuple[Path, str]]:
    """Every text file that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" not in data:
            yield path, data.decode()


def test_each_module_is_imported_somewhere() -> None:
    """A module that nothing in src imports is dead."""
    files = python_files(SOURCE)
    used = {name for path in files for name in imported_names(path)}
    # Run as `python -m`, in a process of their own, a module is named by a string; one that is read by others
    # (the client in /docs) by its file's name.
    named = "\n".join(path.read_text() for path in files)
    dead = [
        module_name(path)
        for path in files
        if path.name not in ("__init__.py", "__main__.py", "cli.py")
        and module_name(path) not in used
        and f'"{module_name(path)}"' not in named
        and f'"{path.name}"' not in named
    ]
    assert not dead


def test_file_names_say_what_is_inside() -> None:
    """A vague name shows a missing noun."""
    assert not [place(path) for path in python_files(SOURCE, TESTS) if path.stem.strip("_") in VAGUE_NAMES]


def test_modules_and_functions_only_get_shorter() -> None:
    """The longest module and the longest function are no longer than they were."""
    files = python_files(SOURCE)
    long_modules = [
        place(path) for path in files if len(path.read_text().splitlines()) > LONGEST_MODULE_LINES
    ]
    long_functions = [
        place(path, function)
        for path in files
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > LONGEST_FUNCTION_LINES
    ]
    assert not long_modules + long_functions


def test_each_port_is_made_for_one_kind_of_caller() -> None:
    """A port has at most eight methods, with those that it has from other ports."""
    classes = {
        node.name: node
        for path in (SOURCE / "growbin" / "ports").glob("*.py")
        for node in syntax(path).body
        if isinstance(node, ast.ClassDef)
    }

    def methods(name: str) -> set[str]:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        own = {node.name for node in classes[name].body if isinstance(node, functions)}
        bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
        return own.union(*(methods(base) for base in bases if base in classes))

    assert classes
    assert not [name for name in classes if len(methods(name)) > MOST_PORT_METHODS]


def constant_of(node: ast.expr) -> float | None:
    """The value of a product of numbers."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            factors = constant_of(left), constant_of(right)
            return factors[0] * factors[1] if factors[0] is not None and factors[1] is not None else None
    return None


def test_lifetimes_stand_in_their_tables() -> None:
    """Days and weeks are written where keys, queues, sessions and settings are declared, and nowhere else."""
    tables = {SOURCE / "growbin" / name for name in TABLES_OF_LIFETIMES}
    elsewhere = [
        place(path, node)
        for path in python_files(SOURCE)
        if path not in tables
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.expr)
        if (value := constant_of(node)) is not None and value >= DAY_SECONDS and value % DAY_SECONDS == 0
    ]
    assert not elsewhere


def test_delays_and_header_names_of_our_own_stand_once() -> None:
    """The delay steps and the reader's header are imported, never written again (nginx and CloudFront, which
    cannot import, are compared in tests of their own)."""
    steps, headers = [], []
    for path in python_files(SOURCE):
        for node in ast.walk(syntax(path)):
            if (
                isinstance(node, ast.Tuple)
                and len(node.elts) > 2
                and ast.unparse(node).startswith("(1, 5, 15")
            ):
                steps.append(place(path, node))
            if isinstance(node, ast.Constant) and str(node.value).lower() == "x-growbin-reader":
                headers.append(place(path, node))
    assert (len(steps), len(headers)) == (1, 1), [*steps, *headers]


def test_quantities_carry_their_unit() -> None:
    """A parameter is called `timeout_seconds`, not `timeout`; `size_bytes`, not `size`."""
    bare = [
        f"{place(path, function)} {argument.arg}"
        for path in python_files(SOURCE)
        for function in functions(path)
        for argument in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        if argument.arg.split("_")[-1] in QUANTITIES and not UNITS.search(argument.arg)
    ]
    assert not bare


def settings_fields() -> list[ast.AnnAssign]:
    config = syntax(SOURCE / "growbin" / "config.py")
    settings = next(
        node for node in config.body if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    return [node for node in settings.body if isinstance(node, ast.AnnAssign)]


def test_each_setting_is_used_and_described() -> None:
    """A setting that nothing reads promises what is not so; one without description is half a setting."""
    used = attributes_used(*python_files(SOURCE)) | {"redis_url"}  # the roles' URLs are derived from it
    for field in settings_fields():
        assert isinstance(field.target, ast.Name)
        assert field.target.id in used, f"{field.target.id} is never read"
        assert isinstance(field.value, ast.Call), field.target.id
        assert any(keyword.arg == "description" for keyword in field.value.keywords), field.target.id


def test_each_setting_stands_in_the_operations_page() -> None:
    """Who deploys growbin finds every variable in one table."""
    page = (ROOT / "docs" / "operations.md").read_text()
    names = [field.target.id.upper() for field in settings_fields() if isinstance(field.target, ast.Name)]
    assert not [name for name in names if f"| `{name}` |" not in page]


def test_each_metric_is_measured() -> None:
    """What telemetry declares is used outside telemetry."""
    telemetry = SOURCE / "growbin" / "telemetry" / "metrics.py"
    declared = {
        target.id
        for node in syntax(telemetry).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        if isinstance(node.value.func, ast.Name | ast.Attribute)
        if getattr(node.value.func, "id", getattr(node.value.func, "attr", "")) in METRICS
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    others = [path for path in python_files(SOURCE) if path != telemetry]
    used = attributes_used(*others) | {
        name.rpartition(".")[2] for path in others for name in imported_names(path) if ".telemetry." in name
    }
    assert declared - used == set()


def test_log_events_are_noun_verbed() -> None:
    """Each log line begins with a constant like `job_postponed`: made for grep, not for reading aloud."""
    odd = [
        f"{place(path, node)} {ast.unparse(node.args[0])}"
        for path in python_files(SOURCE)
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args
        if node.func.attr in LOG_METHODS and ast.unparse(node.func.value) in ("log", "logger")
        if not isinstance(node.args[0], ast.Constant)
        or not re.fullmatch("[a-z0-9]+(_[a-z0-9]+)+", str(node.args[0].value))
    ]
    assert not odd


def test_only_gateway_probes_and_local_parts_serve_http() -> None:
    """`aiohttp.web` opens a door; there are to be few (wiring lets the gateway's begin to listen)."""
    doors = {
        module_name(path).split(".")[1]
        for path in python_files(SOURCE / "growbin")
        if "aiohttp.web" in imported_names(path)
    }
    assert doors <= {"gateway", "probes", "embedded_model", "local", "wiring"}


def test_end_to_end_tests_know_nothing_of_the_inside() -> None:
    """They import nothing from growbin: they see what a stranger sees."""
    inside = [
        place(path)
        for path in [
            *python_files(TESTS / "e2e", TESTS / "stream_conformance"),
            TESTS / "conftest.py",
            TESTS / "load_profile.py",
            TESTS / "loopback.py",
            TESTS / "processes.py",
            TESTS / "model_personalities.py",
            TESTS / "openai_stand_in.py",
        ]
        if any(name.split(".")[0] == "growbin" for name in imported_names(path))
    ]
    assert not inside


def values_given(path: Path) -> Iterator[tuple[str, ast.expr]]:
    """What a file gives by name: in a dictionary, as an argument, or into a dictionary."""
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from ((str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant))
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg, node.value
        elif isinstance(node, ast.Assign):
            slices = [target.slice for target in node.targets if isinstance(target, ast.Subscript)]
            yield from ((str(it.value), node.value) for it in slices if isinstance(it, ast.Constant))


def test_limits_are_raised_in_the_load_profile_alone() -> None:
    """Elsewhere a test or benchmark may lower a limit to see the refusal, and keeps the default otherwise."""
    defaults = {
        field.target.id: int(ast.literal_eval(field.value.args[0]))
        for field in settings_fields()
        if isinstance(field.target, ast.Name) and isinstance(field.value, ast.Call)
        if field.target.id.upper() in LOAD_PROFILE
    }
    assert all(int(LOAD_PROFILE[name.upper()]) > default for name, default in defaults.items())
    assert len(defaults) == len(LOAD_PROFILE)
    raised = [
        f"{place(path, value)} {name}"
        for path in python_files(TESTS, ROOT / "bench")
        if path.name != "load_profile.py"
        for name, value in values_given(path)
        if name.lower() in defaults
        if not isinstance(value, ast.Constant) or int(value.value) > defaults[name.lower()]  # type: ignore[arg-type]  # a number or one as text
    ]
    assert not raised


def test_each_fake_is_held_to_the_suite_of_its_port() -> None:
    """A contract suite's fixture gives each case the fake and the real thing; neither fake nor suite goes
    without the other."""
    fakes = {
        node.name
        for path in python_files(TESTS / "fakes")
        for node in syntax(path).body
        if isinstance(node, ast.ClassDef) and node.name.startswith("Fake")
    }
    fixtures = [
        {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} & fakes
        for path in python_files(TESTS / "contract")
        for function in functions(path)
        if any("params=['fake', 'real']" in ast.unparse(decorator) for decorator in function.decorator_list)
    ]
    assert fakes
    assert all(fixtures)
    assert set().union(*fixtures) == fakes


def test_each_test_states_behaviour_in_a_sentence() -> None:
    """A test begins with a docstring whose first paragraph is short and ends like a sentence."""
    mute = [
        place(path, function)
        for path in TESTS.rglob("test_*.py")
        for function in functions(path)
        if function.name.startswith("test_")
        if not re.match(r"([^\n]+\n?){1,3}(?<=[.!?])(\n\n|\n?$)", ast.get_docstring(function) or "")
    ]
    assert not mute


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRY_HOSTS], ids=["machine paths", "registry hosts"])
def test_no_file_names_a_machine(pattern: re.Pattern[str]) -> None:
    """Paths of one person's machine and addresses of package registries have no place in the repository."""
    assert not [
        f"{place(path)}: {found[0]}" for path, text in tracked_texts() if (found := pattern.search(text))
    ]


def test_no_page_promises_a_vendors_model() -> None:
    """Models go; only the table of settings names the default one."""
    promised = [
        f"{place(path)}: {line}"
        for path, text in tracked_texts()
        if path.name in ("README.md", "ARCHITECTURE.md", "compose.yaml")
        or path.is_relative_to(ROOT / "docs")
        or path.is_relative_to(ROOT / "deploy")
        for line in text.splitlines()
        if MODEL_NAMES.search(line) and not line.startswith("| `OPENAI_MODEL` |")
    ]
    assert not promised


def test_what_was_left_behind_does_not_come_back() -> None:
    """No perceptual hash and no Celery, not even as somebody else's requirement."""
    locked = "".join(path.read_text().lower() for path in sorted((ROOT / "requirements").glob("*.txt")))
    assert not re.findall(r"^(?:imagehash|celery|kombu)==", locked, re.MULTILINE)


def test_locks_agree_and_the_one_to_run_with_holds_no_tools() -> None:
    """One may be installed over another: all have the same versions. `make run` needs no linter."""

    def locked(name: str) -> set[str]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        return set(re.findall(r"^\S+==\S+", text, re.MULTILINE))

    everything = locked("dev")
    assert all(locked(name) < everything for name in ("build", "local", "model", "run", "tracing"))
    names = {package.partition("==")[0] for package in locked("local")}
    assert names.isdisjoint({"mypy", "playwright", "pytest", "ruff", "uv"})


def test_each_mutant_still_fits_the_code() -> None:
    """A patch that no longer applies would prove nothing, and only the long run would say so."""
    patches = sorted((TESTS / "faults" / "mutants").glob("*.patch"))
    assert patches
    header = re.compile(r"# control: .+\n# row: tests/\w+/test_\w+\.py::test_.+\n# fails: .+\n--- ")
    assert all(header.match(patch.read_text()) for patch in patches)
    stale = [
        patch.name
        for patch in patches
        if subprocess.run(["git", "apply", "--check", str(patch)], cwd=ROOT, capture_output=True).returncode
    ]
    assert not stale
