"""Which addresses lie on this machine or in our own network: no proxy stands between us and them."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

OWN_NAMES = (".cluster.local", ".internal", ".local", ".localhost", ".svc")


def is_nearby(url: str | None) -> bool:
    """Loopback, private numbers, names without a dot (`minio`) and those of clusters. None is a vendor's
    own address, and far."""
    host = (urlsplit(url).hostname or "") if url else ""
    if not host:
        return False
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(OWN_NAMES)


def proxy_of(url: str) -> str | None:
    """The address of the proxy that the environment puts before `url`; None where we go straight."""
    parts = urlsplit(url)
    if is_nearby(url) or proxy_bypass(parts.netloc):
        return None
    proxy = getproxies().get(parts.scheme) or getproxies().get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def proxy_before(url: str) -> str | None:
    """Its host and port alone."""
    proxy = proxy_of(url)
    return urlsplit(proxy).netloc.rpartition("@")[2] if proxy else None
