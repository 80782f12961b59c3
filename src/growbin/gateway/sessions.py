"""Who asks: a session from its cookie or Bearer token, and the address it comes from. Whoever looks up a
session counts the call against its rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from aiohttp import hdrs, web
from pydantic import BaseModel

from growbin.errors import Rejected
from growbin.gateway.addresses import (
    address_hash,
    client_address,
    counted_address,
    first_forwarded,
    is_trusted,
)
from growbin.gateway.context import GATEWAY
from growbin.gateway.problems import bad_request
from growbin.gateway.rates import RATES, heed
from growbin.job import RECENT_JOBS, SESSION_SECONDS
from growbin.rates import LiveSession

# Behind TLS the first, which no neighbouring host can set. The second is an earlier version's: for one
# release it is read and written beside it, and it is the only one without TLS.
HOST_COOKIE, COOKIE = COOKIES_READ = ("__Host-growbin_session", "growbin_session")
LONGEST_TOKEN = 256
AFTER_TICKET_SECONDS = 15 * 60


@dataclass(frozen=True, slots=True)
class Session:
    owner: str  # SHA-256 of the token, hex
    token: str
    in_cookie: bool
    expires_in: int
    is_kept: bool  # it has completed an upload

    @classmethod
    def of(cls, live: LiveSession, token: str, *, in_cookie: bool) -> Session:
        return cls(live.owner, token, in_cookie, live.expires_in, live.is_kept)


SESSION = web.RequestKey("session", Session)  # as it was found


class SessionAnswer(BaseModel):
    token: str
    expires_in: int


async def create_session(request: web.Request) -> web.Response:
    """A session for a client that keeps no cookies."""
    session = await _make_session(request, in_cookie=False)
    answer = SessionAnswer(token=session.token, expires_in=session.expires_in)
    return web.Response(status=201, text=answer.model_dump_json(), content_type="application/json")


async def end_session(request: web.Request) -> web.Response:
    """`DELETE /api/v1/sessions/current`: 204, also for a cookie whose session has ended before. With
    `erase=true` its jobs are deleted first; otherwise they live out their days, and nobody can reach them."""
    gateway = request.app[GATEWAY]
    erase = request.query.get("erase", "false")
    if erase not in ("true", "false"):
        raise bad_request("`erase` must be true or false.")
    session = await find_session(request)
    if session is not None:
        if erase == "true":
            for job_id in await gateway.records.recent(session.owner, RECENT_JOBS):
                await gateway.eraser.promise(job_id, session.owner)
        await gateway.sessions.end(session.owner)
    answer = web.Response(status=204)
    for name in COOKIES_READ:
        if name in request.cookies:
            answer.del_cookie(name, path="/", httponly=True, samesite="Lax", secure=came_over_tls(request))
    return answer


async def find_session(request: web.Request, new_job: UUID | None = None) -> Session | None:
    """The caller's live session, if any; its call is counted, once, and a new job put on its list. A Bearer
    token goes before the cookie. Raises Rejected (session_unknown for a Bearer token that opens nothing,
    too_many_requests)."""
    if SESSION in request:
        return request[SESSION]
    token, in_cookie = _offered(request)
    live = None
    if token:
        gateway, rates = request.app[GATEWAY], request.app[RATES]
        rate = rates.of(request)
        is_ticket = rate is rates.tickets
        seconds = gateway.limits.upload_wait_seconds + AFTER_TICKET_SECONDS if is_ticket else 0
        admission = await gateway.sessions.look(
            token, address_key(request), rate, at_least_seconds=seconds, new_job=new_job
        )
        live = heed(request, admission).session
    if live is None:
        if not in_cookie:
            raise _session_unknown()
        return None
    request[SESSION] = Session.of(live, token, in_cookie=in_cookie)
    return request[SESSION]


def offers_session(request: web.Request) -> bool:
    """False where there is nothing to look up. Raises Rejected (session_unknown for a Bearer token that can
    be none)."""
    token, in_cookie = _offered(request)
    if not token and not in_cookie:
        raise _session_unknown()
    return bool(token)


def _offered(request: web.Request) -> tuple[str, bool]:
    """What may open a session, "" where nothing can, and whether it is a cookie's."""
    scheme, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    in_cookie = scheme.lower() != "bearer"
    token = _cookie(request) if in_cookie else bearer.strip()
    return token if token.isascii() and len(token) <= LONGEST_TOKEN else "", in_cookie


def _session_unknown() -> Rejected:
    detail = (
        "This Bearer token opens no session: it is unknown or has expired. POST /api/v1/sessions gives one."
    )
    return Rejected("session_unknown", detail)


def _cookie(request: web.Request) -> str:
    """The session's token. Where a browser sends several cookies of one name, all but one were set by a
    neighbouring host, and nothing tells which: then none counts."""
    for name in COOKIES_READ:
        pairs = (
            pair.strip().partition("=")
            for line in request.headers.getall(hdrs.COOKIE, ())
            for pair in line.split(";")
        )
        values = {value for found, _, value in pairs if found == name}
        if values:
            return values.pop() if len(values) == 1 else ""
    return ""


async def find_or_make_session(request: web.Request, new_job: UUID | None) -> Session:
    """The caller's session, or a new one for its cookie: tokens are only ever made here, never taken over."""
    return await find_session(request, new_job) or await _make_session(
        request, in_cookie=True, new_job=new_job
    )


async def _make_session(request: web.Request, *, in_cookie: bool, new_job: UUID | None = None) -> Session:
    gateway, rates = request.app[GATEWAY], request.app[RATES]
    token, admission = await gateway.sessions.create(
        address_key(request),
        rates.tickets if in_cookie else rates.sessions,
        at_least_seconds=gateway.limits.upload_wait_seconds + AFTER_TICKET_SECONDS if in_cookie else 0,
        new_job=new_job,
    )
    live = heed(request, admission).session
    assert live is not None  # only a refusal makes none
    return Session.of(live, token, in_cookie=in_cookie)


def kept(session: Session) -> Session:
    """As it is once it has completed an upload: its days slide."""
    return replace(session, is_kept=True, expires_in=SESSION_SECONDS)


def keep_session(request: web.Request, response: web.Response, session: Session) -> None:
    """Set the cookie, anew each time: its life slides with the session's."""
    if session.in_cookie:
        is_secure = came_over_tls(request)
        for name in COOKIES_READ if is_secure else (COOKIE,):
            response.set_cookie(
                name,
                session.token,
                max_age=session.expires_in,
                path="/",
                httponly=True,
                samesite="Lax",
                secure=is_secure,
            )


def address_of(request: web.Request) -> str:
    """The client's address, past the proxies we trust; the /64 of an IPv6 one."""
    forwarded = request.headers.getall("X-Forwarded-For", ())
    if not forwarded:
        return counted_address(request.remote or "")
    return counted_address(client_address(request.remote, forwarded, request.app[GATEWAY].trusted_proxies))


def address_key(request: web.Request) -> str:
    """What is stored of it."""
    return address_hash(address_of(request))


def came_over_tls(request: web.Request) -> bool:
    gateway = request.app[GATEWAY]
    forwarded = first_forwarded(request.headers.get("X-Forwarded-Proto", "")) == "https"
    return gateway.secure_cookies or (forwarded and is_trusted(request.remote, gateway.trusted_proxies))
