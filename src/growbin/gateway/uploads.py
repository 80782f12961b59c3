"""Tickets: the permission to upload one photo, and the job that waits for it."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal
from uuid import UUID

import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from growbin.errors import Rejected
from growbin.gateway.answers import Links, json_answer, links_of
from growbin.gateway.bodies import read_body
from growbin.gateway.context import GATEWAY, Gateway
from growbin.gateway.languages import preferred_locale
from growbin.gateway.problems import bad_request, photo_too_large, unsupported_photo
from growbin.gateway.sessions import address_key, find_or_make_session, keep_session
from growbin.job import ContentType, Locale, Upload

log = structlog.get_logger()

LONGEST_IDEMPOTENCY_KEY = 200
# What is taken, and what systems and libraries write for it as well.
TYPES: dict[ContentType, tuple[str, ...]] = {
    "image/jpeg": ("image/jpg", "image/pjpeg", "image/jfif", "image/jpe", "image/x-jpeg"),
    "image/png": ("image/x-png",),
    "image/webp": ("image/x-webp",),
    "image/heic": ("image/heif", "image/heic-sequence", "image/heif-sequence"),
}


class AnalyzeRequest(BaseModel):
    """What the client may say before it uploads. A declared type and length are bound into the ticket."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "content_type": "image/jpeg",
                    "content_length": 234567,
                    "question": "뚜껑도 같이 버려요?",
                    "locale": "ko",
                },
                {},
            ]
        },
    )

    content_type: str | None = Field(
        None,
        description="image/jpeg, image/png, image/webp or image/heic, by any of their names",
        json_schema_extra={
            "enum": [name for names in TYPES.items() for name in (names[0], *names[1])] + [None]
        },
    )
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
    if gateway.limits.require_declared_length and wanted.content_length is None:
        raise Rejected("length_required", "Send `content_length`, the photo's size in bytes.")
    idempotency_key = _idempotency_key(request)

    job_id = uuid.uuid4()
    # Of a key that made a job before it is that job which is listed, later.
    session = await find_or_make_session(request, None if idempotency_key else job_id)
    content_type = declared_type or "image/jpeg"
    upload = await gateway.records.create(
        Upload(
            job_id=job_id,
            owner=session.owner,
            key=f"incoming/{job_id}",
            image_url=f"{gateway.cdn_base_url}/{job_id}.jpg",
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
    if idempotency_key:
        await gateway.records.list_job(upload)
    answer = json_answer(await _ticket(gateway, upload), status=201)
    answer.headers[hdrs.LOCATION] = links_of(upload.job_id).self
    keep_session(request, answer, session)
    log.info("ticket_issued", job_id=str(upload.job_id))
    return answer


async def _ticket(gateway: Gateway, upload: Upload) -> TicketAnswer:
    """A fresh ticket for the upload's one key; its job is opened, and its session's streams told, once it is
    listed."""
    await gateway.progress.open_job(upload, gateway.limits.upload_deadline_ms(upload))
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
    """By whatever name it is declared."""
    if declared is None:
        return None
    name = declared.partition(";")[0].strip().lower()
    for content_type, other_names in TYPES.items():
        if name in (content_type, *other_names):
            return content_type
    raise unsupported_photo()


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= LONGEST_IDEMPOTENCY_KEY and key.isprintable()):
        raise bad_request(f"Idempotency-Key must have 1 to {LONGEST_IDEMPOTENCY_KEY} printable characters.")
    return key
