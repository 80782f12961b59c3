"""Whose address counts, behind proxies that may be trusted and headers that may not."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from growbin.gateway.addresses import address_hash, client_address, counted_address, is_trusted

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("fd00::1", ["[2001:db8::5]:443"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["2001:db8::5"], "2001:db8::5"),
        ("10.0.0.1", ["198.51.100.7, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        (None, ["198.51.100.7"], "unknown"),
    ],
)
def test_client_is_the_nearest_stranger(peer: str | None, forwarded_for: list[str], client: str) -> None:
    """Only what trusted proxies appended is believed, read from the right."""
    assert client_address(peer, forwarded_for, PROXIES) == client


def test_nobody_is_trusted_without_networks() -> None:
    """Without configured proxies no header counts."""
    assert not is_trusted("127.0.0.1", ())
    assert client_address("127.0.0.1", ["1.2.3.4"], ()) == "127.0.0.1"


def test_hash_hides_the_address_and_tells_addresses_apart() -> None:
    """The hash is short, stable and different for another address."""
    assert address_hash("192.0.2.1") == address_hash("192.0.2.1") != address_hash("192.0.2.2")
    assert "192" not in address_hash("192.0.2.1")[:3] or len(address_hash("192.0.2.1")) == 16


def test_household_is_counted_by_its_network() -> None:
    """IPv6 by /64, IPv4 by address, also where it comes as IPv6; what is no address counts as one."""
    assert (
        counted_address("2001:db8:1:2::5") == counted_address("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    )
    assert counted_address("2001:db8:1:3::5") == "2001:db8:1:3::/64"
    assert counted_address("::ffff:192.0.2.1") == counted_address("192.0.2.1") == "192.0.2.1"
    assert counted_address("") == counted_address("nonsense") == "unknown"
