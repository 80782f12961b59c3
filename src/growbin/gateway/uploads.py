"""Tickets: the permission to upload one photo, and the job that waits for it."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal
from uuid import UUID

import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from growbin.gateway.answers import Links, json_answer, links_of
from growbin.gateway.bodies import read_body
from growbin.gateway.context import GATEWAY, Gateway
from growbin.gateway.problems import bad_request, photo_too_large, unsupported_photo
from growbin.gateway.sessions import address_key, find_or_make_session, keep_session
from growbin.job import EXTENSIONS, ContentType, Locale, Upload

log = structlog.get_logger()

LONGEST_IDEMPOTENCY_KEY = 200


class AnalyzeRequest(BaseModel):
    """What the client may say before it uploads. A declared type and length are bound into the ticket."""

    model_config = ConfigDict(extra="forbid", strict=True)

    content_type: str | None = Field(None, description="image/jpeg, image/png or image/webp")
    content_length: Annotated[int, Field(gt=0)] | None = None
    question: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] | None = None
    locale: Locale | None = Field(None, description="default: from Accept-Language, else ko")


class TicketAnswer(BaseModel):
    job_id: UUID
    upload_url: str
    upload_method: Literal["PUT"]
    upload_headers: dict[str, str]
    image_url: str
    expires_in: int
    links: Links


async def analyze(request: web.Request) -> web.Response:
    """`POST /api/v1/waste/analyze`"""
    gateway = request.app[GATEWAY]
    wanted = await read_body(request, AnalyzeRequest)
    declared_type = _accepted_type(wanted.content_type)
    if wanted.content_length is not None and wanted.content_length > gateway.limits.photo_max_bytes:
        raise photo_too_large(gateway.limits.photo_max_bytes)
    idempotency_key = _idempotency_key(request)

    session = await find_or_make_session(request)
    job_id = uuid.uuid4()
    content_type = declared_type or "image/jpeg"
    name = f"{job_id}.{EXTENSIONS[content_type]}"
    upload = await gateway.records.create(
        Upload(
            job_id=job_id,
            owner=session.owner,
            key=f"incoming/{name}",
            image_url=f"{gateway.cdn_base_url}/{name}",
            content_type=content_type,
            declared_type=declared_type,
            declared_length=wanted.content_length,
            question=wanted.question or None,
            locale=wanted.locale or preferred_locale(request.headers.get(hdrs.ACCEPT_LANGUAGE, "")),
            address_hash=address_key(request),
            created_at_ms=0,  # the record's times are stamped where it is stored, by one clock
            ticket_expires_at_ms=0,
        ),
        idempotency_key,
    )
    answer = json_answer(await _ticket(gateway, upload), status=201)
    answer.headers[hdrs.LOCATION] = links_of(upload.job_id).self
    keep_session(request, answer, session)
    log.info("ticket_issued", job_id=str(upload.job_id))
    return answer


async def _ticket(gateway: Gateway, upload: Upload) -> TicketAnswer:
    """A fresh ticket for the upload's one key; its job is opened and listed if it was not yet."""
    await gateway.progress.open_job(upload, gateway.limits.upload_deadline_ms(upload))
    await gateway.records.list_job(upload)
    ticket = await gateway.uploads.ticket(
        upload.key, upload.declared_type, upload.declared_length, gateway.limits.ticket_seconds
    )
    return TicketAnswer(
        job_id=upload.job_id,
        upload_url=ticket.url,
        upload_method="PUT",
        upload_headers=ticket.headers,
        image_url=upload.image_url,
        expires_in=gateway.limits.ticket_seconds,
        links=links_of(upload.job_id),
    )


def _accepted_type(declared: str | None) -> ContentType | None:
    if declared is not None and declared not in EXTENSIONS:
        raise unsupported_photo()
    return declared


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= LONGEST_IDEMPOTENCY_KEY and key.isprintable()):
        raise bad_request(f"Idempotency-Key must have 1 to {LONGEST_IDEMPOTENCY_KEY} printable characters.")
    return key


def preferred_locale(accept_language: str) -> Locale:
    """The better liked of our languages in an Accept-Language header; Korean when neither is named."""
    liked: dict[str, float] = {}
    for choice in accept_language.split(","):
        tag, _, quality = choice.partition(";")
        language = tag.strip().lower().partition("-")[0]
        try:
            weight = float(quality.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        liked[language] = max(weight, liked.get(language, 0))
    return "en" if liked.get("en", 0) > liked.get("ko", 0) else "ko"
