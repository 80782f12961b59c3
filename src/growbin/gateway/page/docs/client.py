"""A photo in, the advice out: a whole growbin client, with nothing but Python's own library.

python3 client.py http://127.0.0.1:8080 photo.jpg
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ENDS = ("done", "failed", "cancelled", "expired")
CALL_SECONDS = 30
SILENCE_SECONDS = 45  # a stream is never silent for longer than its heartbeat of 15 s


class Problem(Exception):
    """The service said no: `code` is a stable word, the text says what to do."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code


class Growbin:
    """One session. Keep `token`: it is what opens its jobs later."""

    def __init__(self, server: str, token: str = "") -> None:
        self.server = server.rstrip("/")
        self.token = token

    def begin_session(self) -> None:
        self.token = ""
        self.token = self.call("POST", "/api/v1/sessions")["token"]

    def call(self, method: str, path: str, body: object = None, key: str = "") -> Any:
        """The JSON of the answer. Every call may be repeated, so it is, while the answer is "not now"."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        data = json.dumps(body).encode() if body is not None else None
        while True:
            try:
                with self._open(method, self.server + path, data, headers) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                time.sleep(_patience_seconds(error))  # as long as the answer asks us to wait

    def submit(self, photo: Path, content_type: str = "image/jpeg", locale: str = "en") -> str:
        """Ticket, upload, upload-complete. After that the job is safe; returns its id."""
        data = photo.read_bytes()
        wishes = {"content_type": content_type, "content_length": len(data), "locale": locale}
        key = uuid.uuid4().hex  # the same key gives the same job, however often we ask
        if not self.token:
            self.begin_session()
        try:
            ticket = self.call("POST", "/api/v1/waste/analyze", wishes, key)
        except Problem as problem:
            if problem.status != 401:  # the session has ended, and so have its jobs
                raise
            self.begin_session()
            ticket = self.call("POST", "/api/v1/waste/analyze", wishes, key)
        self._upload(ticket, data)
        self.call("POST", ticket["links"]["upload_complete"])
        return str(ticket["job_id"])

    def events(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each event once and in order, whatever is cut, up to the one that ends the job. After `reset` what
        came before no longer counts: its data is the job as it is now."""
        last_id = ""
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            wait_seconds = 2.0
            try:
                url = f"{self.server}/api/v1/waste/jobs/{job_id}/events"
                with self._open("GET", url, None, headers, SILENCE_SECONDS) as stream:
                    for fields in _blocks(stream):
                        wait_seconds = float(fields.get("retry", 2000)) / 1000
                        last_id = fields.get("id", last_id)
                        if "data" not in fields:
                            continue
                        name = fields["event"]
                        yield name, json.loads(fields["data"])
                        if name in ENDS:
                            return
            except urllib.error.HTTPError as error:
                wait_seconds = _patience_seconds(error)
            except OSError:
                pass  # cut: on from the last id
            time.sleep(wait_seconds)  # what the stream or a refusal asked for

    def _upload(self, ticket: dict[str, Any], data: bytes) -> None:
        """Straight to the storage, with the ticket's headers and without our token."""
        request = urllib.request.Request(
            ticket["upload_url"], data, ticket["upload_headers"], method=ticket["upload_method"]
        )
        try:
            urllib.request.urlopen(request, timeout=CALL_SECONDS).close()
        except urllib.error.HTTPError as error:
            if error.code != 412:  # it is there already
                raise

    def _open(
        self,
        method: str,
        url: str,
        data: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float = CALL_SECONDS,
    ) -> Any:
        session = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(url, data, {**headers, **session}, method=method)
        return urllib.request.urlopen(request, timeout=timeout_seconds)


def _patience_seconds(error: urllib.error.HTTPError) -> float:
    """How long to wait before the same call again. Raises Problem when that would help nothing."""
    try:
        problem = json.loads(error.read())
    except ValueError:
        problem = {"code": "unexpected_answer", "detail": str(error)}
    if error.code not in (429, 502, 503, 504):
        raise Problem(error.code, problem["code"], problem["detail"]) from None
    return float(error.headers.get("Retry-After") or 2)


def _blocks(lines: Iterable[bytes]) -> Iterator[dict[str, str]]:
    """The fields of each block; a line that begins with a colon is the heartbeat."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line.strip():
            yield fields
            fields = {}


def main() -> None:
    server, photo = sys.argv[1:3]
    growbin = Growbin(server)
    for name, event in growbin.events(growbin.submit(Path(photo))):
        print(name, event.get("progress", ""), event["message"], file=sys.stderr)
        if name in ENDS:
            print(json.dumps(event.get("result") or event.get("failure") or event, ensure_ascii=False))


if __name__ == "__main__":
    main()
