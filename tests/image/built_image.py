"""The image as the real Dockerfile makes it: built by buildah, without a daemon and without a registry.

Its base is named as in the Dockerfile and made here, of Debian's own Python of the same minor version. So
what is not seen is the official base image itself; everything above it is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.deploy.image import Image, stages
from tests.deploy.manifests import ROOT

DEBIAN = "trixie"  # its Python is 3.13, as the Dockerfile's
USER = "10001"

# A container without a container runtime: a read-only root, a /tmp of its own, the user, no privileges.
CONFINE = """
set -e
root=$1; shift
mount --bind "$root" "$root"
mount -t tmpfs -o size=64m tmpfs "$root/tmp"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid=10001 --regid=10001 --clear-groups \\
    --no-new-privs --bounding-set=-all --inh-caps=-all env --chdir=/tmp "$@"
"""


class BuiltImage(Image):
    """Layers and root live in `folder`, and go with it. `requirements` is the build's argument; those of the
    shipped image when it is not given."""

    def __init__(self, folder: Path, requirements: str = "") -> None:
        super().__init__(folder)
        self._argument = [f"--build-arg=REQUIREMENTS={requirements}"] if requirements else []
        self._name = f"localhost/growbin:{requirements or 'check'}"

    def build(self) -> None:
        """The base if it is missing, then every stage of the Dockerfile that the image needs."""
        if not (self._folder / "base").exists():
            self._make_base()
        wanted = ["--target", "growbin", "--tag", self._name, *self._argument]
        self._buildah("bud", "--pull-never", "--layers=false", *wanted, str(ROOT))
        container = self._buildah("from", "--pull-never", self._name)
        self.root = Path(self._buildah("mount", container))

    def command(self, *arguments: str) -> list[str]:
        """What a container would run, held as its security context says."""
        return self.confined(*self.config["Entrypoint"], *arguments)

    def confined(self, *words: str) -> list[str]:
        program = shutil.which("unshare")
        assert program is not None, "unshare is not installed: run `apt-get install util-linux`."
        return [program, "--mount", "sh", "-c", CONFINE, "sh", str(self.root), *words]

    def environment(self) -> dict[str, str]:
        """As it stands in the image."""
        return dict(variable.split("=", 1) for variable in self.config["Env"])

    @property
    def config(self) -> dict[str, Any]:
        said = json.loads(self._buildah("inspect", "--type", "image", self._name))
        return dict(said["OCIv1"]["config"])

    def _make_base(self) -> None:
        [base] = {stage.base for stage in stages().values()} - stages().keys()
        root = self._folder / "base"
        _run(
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--include=ca-certificates,python3",
            DEBIAN,
            str(root),
        )
        [packages] = (root / "usr" / "local" / "lib").glob("python3.*/dist-packages")
        _run(sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target", str(packages), "pip")
        for marker in (root / "usr" / "lib").glob("python3.*/EXTERNALLY-MANAGED"):
            marker.unlink()
        (root / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
        # Whoever answers for the index here, its certificate is trusted by this machine.
        trusted = Path("etc/ssl/certs/ca-certificates.crt")
        (root / trusted).write_bytes((Path("/") / trusted).read_bytes())
        container = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", container, str(root), "/")
        self._buildah("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self._buildah("commit", "--quiet", container, f"docker.io/library/{base}")
        self._buildah("rm", container)

    def _buildah(self, command: str, *words: str) -> str:
        isolated = ["--isolation", "chroot"] if command in ("bud", "from") else []
        store = [
            "--storage-driver",
            "vfs",
            "--root",
            f"{self._folder}/store",
            "--runroot",
            f"{self._folder}/run",
        ]
        return _run("buildah", *store, command, *isolated, *words)


def _run(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, f"{' '.join(command)}\n{run.stdout[-4000:]}{run.stderr[-4000:]}"
    return run.stdout.strip()
