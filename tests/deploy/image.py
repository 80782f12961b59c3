"""The image without Docker: its build stage's own commands in a folder, its run stage's environment."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.deploy.manifests import ROOT

DOCKERFILE = ROOT / "Dockerfile"


@dataclass
class Stage:
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[str]:
        return [words for name, words in self.instructions if name == kind]


@cache
def stages() -> dict[str, Stage]:
    """The Dockerfile's stages by name."""
    stage = Stage("")
    found: dict[str, Stage] = {}
    lines = (line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        kind, _, words = line.partition(" ")
        if kind == "FROM":
            base, _, name = words.partition(" AS ")
            stage = found[name] = Stage(base)
        elif kind:
            stage.instructions.append((kind, words))
    return found


def confined() -> list[str]:
    """How a command begins that is held as by the manifests' securityContext. Our own user stays, for the
    interpreter under the tests may be in a home that nobody else can enter; but root, too, is held by the
    modes of files when it has no capabilities."""
    program = shutil.which("setpriv")
    assert program is not None, "setpriv is not installed: run `apt-get install util-linux`."
    return [program, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


class Image:
    """/opt/growbin is in `folder`, and may not be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.root = folder / "opt" / "growbin"

    def build(self) -> None:
        """The instructions of the stage `build`, on this interpreter instead of the base image's."""
        base, source = self._folder / "base", self._folder / "src"
        source.mkdir()
        subprocess.run([sys.executable, "-m", "venv", base], check=True)
        environment = {"PATH": f"{base}/bin:{os.environ['PATH']}", "HOME": str(self._folder)}
        for kind, words in stages()["build"].instructions:
            match kind:
                case "COPY":
                    *names, target = words.split()
                    for name in names:
                        self._copy(ROOT / name, source / target)
                case "RUN":
                    command = self._placed(words).replace("python -m pip", "python -m pip --quiet")
                    run = subprocess.run(
                        ["sh", "-c", command], cwd=source, env=environment, capture_output=True, text=True
                    )
                    assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
        self._protect(self.root)

    def command(self, *arguments: str) -> list[str]:
        """What a container would run, confined as its security context says."""
        [entry] = json.loads(stages()["run"].of_kind("ENTRYPOINT")[0])
        program = shutil.which(entry, path=self.environment()["PATH"])
        assert program is not None, f"the image has no {entry}"
        return [*confined(), program, *arguments]

    def environment(self) -> dict[str, str]:
        """ENV of the run stage."""
        words = shlex.split(" ".join(stages()["run"].of_kind("ENV")))
        given = dict(word.split("=", 1) for word in words)
        return given | {"PATH": self._placed(given["PATH"]).replace("$PATH", "/usr/bin:/bin")}

    def _placed(self, words: str) -> str:
        return words.replace("/opt/growbin", str(self.root)).replace("/wheels", f"{self._folder}/wheels")

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)

    @staticmethod
    def _protect(folder: Path) -> None:
        for path in [folder, *folder.rglob("*")]:
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
