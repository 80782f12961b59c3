"""Who reaches whom by the rendered NetworkPolicies, read as a network plugin reads them."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.deploy.manifests import Document, Manifests

NAMESPACE = "growbin"


@dataclass(frozen=True)
class Party:
    """A pod, by its labels and its namespace's; or an address outside of the cluster."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = NAMESPACE
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""

    @property
    def is_ours(self) -> bool:
        """Policies hold in their own namespace only."""
        return self.namespace == NAMESPACE and not self.address


@dataclass(frozen=True, order=True)
class Way:
    """`port` is a number and its protocol: "53/UDP"."""

    caller: str
    called: str
    port: str


def ways(policies: list[Document], parties: list[Party], ports: list[str]) -> set[Way]:
    """Every way that is open between two parties of which one is ours."""
    return {
        Way(caller.name, called.name, port)
        for caller in parties
        for called in parties
        if caller is not called or caller.is_ours
        if caller.is_ours or called.is_ours
        for port in ports
        if _passes(policies, "Egress", caller, called, port)
        and _passes(policies, "Ingress", called, caller, port)
    }


def _passes(policies: list[Document], direction: str, ours: Party, other: Party, port: str) -> bool:
    """What leaves `ours` for `other` (Egress), or comes in from it: unhindered where no policy holds it."""
    openings, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    holding = [
        policy["spec"]
        for policy in policies
        if ours.is_ours and direction in policy["spec"]["policyTypes"]
        if _selects(policy["spec"]["podSelector"], ours.labels)
    ]
    return not holding or any(
        _is_of(peer, other) and _opens(given, port)
        for spec in holding
        for opening in spec.get(openings, [])
        for peer in opening[peers]
        for given in opening["ports"]
    )


def _selects(selector: Document, labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, f"only labels are understood here, not {selector}"
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def _is_of(peer: Document, party: Party) -> bool:
    if block := peer.get("ipBlock"):
        excepted = block.get("except", [])
        return _holds(block["cidr"], party) and not any(_holds(network, party) for network in excepted)
    if party.address:
        return False
    in_namespace = (
        _selects(peer["namespaceSelector"], party.namespace_labels)
        if "namespaceSelector" in peer
        else party.namespace == NAMESPACE
    )
    return in_namespace and _selects(peer.get("podSelector", {}), party.labels)


def _holds(network: str, party: Party) -> bool:
    return bool(party.address) and ipaddress.ip_address(party.address) in ipaddress.ip_network(network)


def _opens(given: Document, port: str) -> bool:
    number, protocol = port.split("/")
    first: int = given["port"]
    last: int = given.get("endPort", first)
    return bool(given["protocol"] == protocol) and first <= int(number) <= last


def weakened(manifests: Manifests) -> Iterator[tuple[str, list[Document]]]:
    """The policies without one of their parts, each once: a whole policy, a peer, an exception, a port."""
    policies = manifests.of_kind("NetworkPolicy")
    for place, policy in enumerate(policies):
        name = policy["metadata"]["name"]
        yield name, policies[:place] + policies[place + 1 :]
        for direction, peers in (("egress", "to"), ("ingress", "from")):
            for number, opening in enumerate(policy["spec"].get(direction, [])):
                for part in (peers, "ports"):
                    for gone in range(len(opening[part])):
                        changed = copy.deepcopy(policies)
                        removed = changed[place]["spec"][direction][number][part].pop(gone)
                        yield f"{name}: {direction} {part} {removed}", changed
                for peer, given in enumerate(opening[peers]):
                    for gone in range(len(given.get("ipBlock", {}).get("except", []))):
                        changed = copy.deepcopy(policies)
                        block = changed[place]["spec"][direction][number][peers][peer]["ipBlock"]
                        yield f"{name}: {direction} except {block['except'].pop(gone)}", changed
