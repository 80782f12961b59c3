"""An event stream that was opened: its answer, and its items one by one as a decoder reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Literal, Protocol, TypeVar

import aiohttp

LAST_ID = "Last-Event-ID"
Way = Literal["header", "query"]
Item = TypeVar("Item")


class Decoder(Protocol[Item]):
    def feed(self, chunk: bytes) -> list[Item]: ...


class OpenStream(Generic[Item]):
    def __init__(self, response: aiohttp.ClientResponse, decoder: Decoder[Item]) -> None:
        self._response = response
        self._decoder = decoder
        self._items: list[Item] = []

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def item(self) -> Item | None:
        """The next one; None when the service has ended the stream. Raises aiohttp.ClientError when the line
        was cut."""
        while not self._items:
            chunk = await self._response.content.readany()
            if not chunk:
                return None
            self._items = self._decoder.feed(chunk)
        return self._items.pop(0)


def last_id_in(way: Way, parameter: str, last_id: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and query that tell it; nothing where there is none."""
    if last_id is None:
        return {}, {}
    return ({LAST_ID: last_id}, {}) if way == "header" else ({}, {parameter: last_id})
