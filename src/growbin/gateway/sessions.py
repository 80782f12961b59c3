"""Who asks: a session from its cookie or Bearer token, and the address it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import hdrs, web
from pydantic import BaseModel

from growbin.errors import Unavailable
from growbin.gateway.addresses import client_address, first_forwarded, is_trusted
from growbin.gateway.context import GATEWAY
from growbin.gateway.problems import bad_request
from growbin.job import RECENT_JOBS, SESSION_SECONDS

COOKIE = "growbin_session"
COOKIES_READ = ("__Host-growbin_session", COOKIE)  # the first is a newer version's
LONGEST_TOKEN = 256


@dataclass(frozen=True, slots=True)
class Session:
    owner: str  # SHA-256 of the token, hex
    token: str
    in_cookie: bool


class SessionAnswer(BaseModel):
    token: str
    expires_in: int


async def create_session(request: web.Request) -> web.Response:
    """A session for a client that keeps no cookies."""
    token = await request.app[GATEWAY].sessions.create()
    answer = SessionAnswer(token=token, expires_in=SESSION_SECONDS)
    return web.Response(status=201, text=answer.model_dump_json(), content_type="application/json")


async def end_session(request: web.Request) -> web.Response:
    """`DELETE /api/v1/sessions/current`: 204, also when it has ended before. With `erase=true` its jobs are
    deleted first; otherwise they live out their days, and nobody can reach them."""
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
            answer.del_cookie(name, path="/", httponly=True, samesite="Lax", secure=_came_over_tls(request))
    return answer


async def find_session(request: web.Request) -> Session | None:
    """The caller's live session, if any."""
    for token, in_cookie in tokens_of(request):
        owner = await request.app[GATEWAY].sessions.owner(token)
        if owner is not None:
            return Session(owner, token, in_cookie)
    return None


def tokens_of(request: web.Request) -> list[tuple[str, bool]]:
    """What may be a session's token, and whether it was in a cookie: a Bearer token goes before."""
    scheme, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    offered = [(bearer.strip(), False)] if scheme.lower() == "bearer" else []
    offered += [(request.cookies.get(name, ""), True) for name in COOKIES_READ]
    return [
        (token, in_cookie)
        for token, in_cookie in offered
        if token and token.isascii() and len(token) <= LONGEST_TOKEN
    ]


async def find_or_make_session(request: web.Request) -> Session:
    """The caller's session, or a new one for its cookie: tokens are only ever made here, never taken over."""
    session = await find_session(request)
    if session is not None:
        return session
    sessions = request.app[GATEWAY].sessions
    token = await sessions.create()
    owner = await sessions.owner(token)
    if owner is None:
        raise Unavailable("redis", "a new session was gone at once")
    return Session(owner, token, in_cookie=True)


def keep_session(request: web.Request, response: web.Response, session: Session) -> None:
    """Set the cookie, anew each time: its seven days slide with the session's."""
    if session.in_cookie:
        response.set_cookie(
            COOKIE,
            session.token,
            max_age=SESSION_SECONDS,
            path="/",
            httponly=True,
            samesite="Lax",
            secure=_came_over_tls(request),
        )


def address_of(request: web.Request) -> str:
    """The client's address, past the proxies we trust."""
    forwarded = request.headers.getall("X-Forwarded-For", [])
    return client_address(request.remote, forwarded, request.app[GATEWAY].trusted_proxies)


def _came_over_tls(request: web.Request) -> bool:
    gateway = request.app[GATEWAY]
    forwarded = first_forwarded(request.headers.get("X-Forwarded-Proto", "")) == "https"
    return gateway.secure_cookies or (forwarded and is_trusted(request.remote, gateway.trusted_proxies))
