"""The HTTP client of the model: it reads so much of a body, and no more."""

from __future__ import annotations

from typing import Any

import httpx2
import openai

from growbin.nearby import is_nearby

MOST_BODY_BYTES = 1024 * 1024  # an honest answer has a hundredth of it


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """Follows no redirect: that would send the photo once more, to somewhere nobody configured."""

    def __init__(self, base_url: str | None = None) -> None:
        """Through the environment's proxy, unless the server is nearby."""
        super().__init__(
            follow_redirects=False,
            # Compressed, a small body may become a large one, and these are small anyway.
            headers={"Accept-Encoding": "identity"},
            trust_env=not is_nearby(base_url),
        )

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The whole answer, also where a stream of it is asked for. A body longer than MOST_BODY_BYTES is cut
        somewhere beyond: who reads it tells it by its length."""
        answer = await super().send(request, **(options | {"stream": True}))
        try:
            body = await _read(answer)
        finally:
            await answer.aclose()
        kept = [(name, value) for name, value in answer.headers.multi_items() if name not in _OF_THE_WIRE]
        return httpx2.Response(answer.status_code, headers=kept, content=body, request=request)


_OF_THE_WIRE = frozenset({"content-encoding", "content-length", "transfer-encoding"})


async def _read(answer: httpx2.Response) -> bytes:
    body = bytearray()
    try:
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > MOST_BODY_BYTES:
                break
    except httpx2.DecodingError:  # it arrived, and says nothing
        return b""
    return bytes(body)
