"""Who called: the client's address behind proxies that we trust. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
UNKNOWN = "unknown"
KEPT = 4096  # addresses that were looked at: each call asks several times about its own
LONGEST = 64  # characters of what may be one: a stranger's header is not kept


def is_trusted(address: str | None, trusted: Iterable[Network]) -> bool:
    parsed = _parse(address or "")
    return parsed is not None and any(parsed in network for network in trusted)


def client_address(peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """The nearest address that is not one of our proxies.

    X-Forwarded-For grows to the right, and only what our own proxies appended can be believed: so it is
    read from the right, and the first stranger is the client, whatever stands to the left of it.
    """
    nearest = _parse(peer or "")
    if nearest is None:
        return UNKNOWN
    hops = [hop for line in forwarded_for for hop in line.split(",")]
    while hops and is_trusted(str(nearest), trusted):
        hop = _parse(hops.pop())
        if hop is None:
            break
        nearest = hop
    return str(nearest)


@lru_cache(KEPT)
def counted_address(address: str) -> str:
    """By what an address is counted: a household has a whole /64 of IPv6."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed or UNKNOWN)


def first_forwarded(header: str) -> str:
    """Each proxy adds to the right of X-Forwarded-Host and -Proto: what the client used stands first."""
    return header.partition(",")[0].strip().lower()


@lru_cache(KEPT)
def address_hash(address: str) -> str:
    """What is kept of an address: enough to count by, not to read."""
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    text = text.strip()
    return _parse_short(text) if len(text) <= LONGEST else None


@lru_cache(KEPT)
def _parse_short(text: str) -> IPv4Address | IPv6Address | None:
    """`192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]:443`; IPv4 in IPv6 becomes IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
