"""The vision model, over the OpenAI chat completions API; any server that speaks it will do."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib import resources

import httpx2
import openai
import structlog
from PIL import Image

from growbin.adapters.model.bounded_client import BoundedClient
from growbin.adapters.model.picture import Picture
from growbin.adapters.model.refusals import Refusal, Trouble, refusal_of, trouble
from growbin.adapters.model.reply import read_reply
from growbin.adapters.model.request import CallShape, messages
from growbin.capabilities import CallWishes
from growbin.errors import JobFailed
from growbin.job import CleanPhoto, Locale, ModelAnswer
from growbin.telemetry import traces
from growbin.usage import PriceList, load_prices

log = structlog.get_logger()

OPENAI_URL = "https://api.openai.com/v1"
PROBE_QUESTION = "Do you answer? This is a probe, and no person's photo."
MOST_CONNECT_SECONDS = 5.0
# Raised before a byte of the request is on its way.
_NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
)
_UNSENDABLE = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.InvalidURL)


class OpenAIAnalyst:
    """One call is one paid answer at most: it is repeated only where a parameter of ours was refused by name,
    which costs nothing."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        http: BoundedClient,
        model: str,
        shape: CallShape,
        prices: PriceList,
        timeout_seconds: float,
    ) -> None:
        self._client = client
        self._http = http
        self._model = model
        self._shape = shape
        self._prices = prices
        self._timeout_seconds = timeout_seconds
        self._prompt = resources.files("growbin").joinpath("data/prompt.txt").read_text(encoding="utf-8")

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        api_key: str,
        base_url: str | None,
        model: str,
        wishes: CallWishes | None = None,
        prices: PriceList | None = None,
        timeout_seconds: float,
    ) -> AsyncIterator[OpenAIAnalyst]:
        """OpenAI itself when `base_url` is None, our own prices when `prices` is. `timeout_seconds` bounds a
        whole call. Raises EffortRefused."""
        shape = CallShape.of(model, wishes or CallWishes())
        connect_seconds = min(MOST_CONNECT_SECONDS, timeout_seconds / 2)
        # Left out, address and key would be taken from the environment.
        base_url = base_url or OPENAI_URL
        async with openai.AsyncOpenAI(
            api_key=api_key or "none",  # a server of one's own may want none; the client insists on one
            base_url=base_url,
            max_retries=0,
            timeout=httpx2.Timeout(timeout_seconds, connect=connect_seconds),
            http_client=(http := BoundedClient(base_url)),
        ) as client:
            yield cls(client, http, model, shape, prices or load_prices(), timeout_seconds)

    async def ask(self, photo: CleanPhoto, question: str | None, locale: Locale) -> ModelAnswer:
        """The model's raw answer.

        Raises Throttled (nothing was paid), Unavailable (perhaps paid),
        JobFailed(model_refused | model_answer_invalid).
        """
        with traces.span(f"chat {self._model}", "client") as span:
            span.set("gen_ai.operation.name", "chat")
            span.set("gen_ai.provider.name", "openai")
            span.set("gen_ai.request.model", self._model)
            span.set("gen_ai.request.max_tokens", self._shape.most_tokens)
            answer = await self._ask(photo, question, locale)
            span.set("gen_ai.response.model", answer.model)
            span.set("gen_ai.usage.input_tokens", answer.usage.input_tokens)
            span.set("gen_ai.usage.output_tokens", answer.usage.output_tokens)
            return answer

    async def _ask(self, photo: CleanPhoto, question: str | None, locale: Locale) -> ModelAnswer:
        shape = self._shape
        began = time.perf_counter()
        try:
            # The client's own time-out is one per read, which a slow drip never meets.
            async with asyncio.timeout(self._timeout_seconds):
                while isinstance(told := await self._post(shape, photo, question, locale), Refusal):
                    simpler = shape.without(told.row.parameter) if told.row.parameter else None
                    if simpler is None:
                        raise told.error()
                    shape = simpler
        except TimeoutError:
            raise trouble("timed out").error() from None
        self._remember(shape)
        return read_reply(
            told,
            configured=self._model,
            prices=self._prices,
            most_tokens=shape.most_tokens,
            analyse_ms=round((time.perf_counter() - began) * 1000),
        )

    async def probe(self) -> None:
        """Whether the model answers: the same call as for a photo, with a small grey square. Raises
        Unavailable while it does not."""
        with suppress(JobFailed):  # an answer, if not a good one
            await self.ask(nobodys_photo(), PROBE_QUESTION, "en")

    async def _post(
        self, shape: CallShape, photo: CleanPhoto, question: str | None, locale: Locale
    ) -> bytes | Refusal:
        """One POST: the body of what was paid for, or what was refused. No error's text is kept: it may
        quote the key."""
        cap = {shape.cap_parameter: shape.most_tokens}
        picture = Picture(photo)
        try:
            with self._http.carrying(picture) as headers:
                paid = await self._client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=[],
                    max_completion_tokens=cap.get("max_completion_tokens", openai.omit),
                    max_tokens=cap.get("max_tokens", openai.omit),
                    reasoning_effort=shape.effort or openai.omit,
                    extra_headers=headers,
                    # Not by name: the client would hold each part of them against each type that it knows,
                    # which takes as long as all the rest.
                    extra_body={
                        "messages": messages(self._prompt, shape.detail, picture, question, locale),
                        "response_format": shape.response_format_sent(),
                    },
                )
        except openai.APIStatusError as error:
            answer = error.response
            return refusal_of(
                answer.status_code,
                answer.content,
                answer.headers,
                secret=self._client.api_key,
                question=question,
            )
        except openai.OpenAIError as error:
            return trouble(_kind_of(error))
        except ValueError:  # a key that no header takes
            return trouble("unsendable")
        return paid.content

    def _remember(self, shape: CallShape) -> None:
        """Only what has brought an answer: a refusal may have quoted a stranger's question."""
        if shape.given_up - self._shape.given_up:
            log.warning("model_parameter_refused", model=self._model, instead=shape.changes(self._shape))
            self._shape = shape


@cache
def nobodys_photo() -> CleanPhoto:
    """A small grey square."""
    square = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(square, "JPEG")
    return CleanPhoto(square.getvalue(), "image/jpeg", 64, 64)


def _kind_of(error: BaseException) -> Trouble:
    causes = list(_causes(error))
    if any(isinstance(cause, _NEVER_SENT) for cause in causes):
        return "never sent"
    if any(isinstance(cause, _UNSENDABLE) for cause in causes):
        return "unsendable"
    return "timed out" if any(isinstance(cause, httpx2.TimeoutException) for cause in causes) else "cut"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
