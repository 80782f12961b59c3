"""The table of who must reach whom, and that the rendered policies open these ways and no other."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest

from tests.deploy.manifests import Manifests, rendered
from tests.deploy.reach import Party, Way, ways, weakened

GROWBIN = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
CLUSTER_NAME = "kubernetes.io/metadata.name"

PODS = [
    *(Party(name, {GROWBIN: "growbin", COMPONENT: name}) for name in ("gateway", "consumer")),
    *(Party(name, {GROWBIN: name}) for name in ("rabbitmq", "valkey", "seaweedfs", "cdn", "model-server")),
    # Whatever else somebody starts in our namespace.
    Party("newcomer", {"app": "newcomer"}),
    Party("entrance", {}, "entrance", {"growbin-entrance": "yes", CLUSTER_NAME: "entrance"}),
    Party("monitoring", {}, "monitoring", {"growbin-monitoring": "yes", CLUSTER_NAME: "monitoring"}),
    Party("kube-dns", {"k8s-app": "kube-dns"}, "kube-system", {CLUSTER_NAME: "kube-system"}),
    Party("another of kube-system", {"app": "other"}, "kube-system", {CLUSTER_NAME: "kube-system"}),
    Party("stranger", {GROWBIN: "growbin", COMPONENT: "gateway"}, "default", {CLUSTER_NAME: "default"}),
    Party("posing as DNS", {"k8s-app": "kube-dns"}, "default", {CLUSTER_NAME: "default"}),
]
ADDRESSES = [
    # S3, the CDN, STS and the model.
    Party("public net", address="203.0.113.10"),
    Party("public net by IPv6", address="2001:db8::10"),
    Party("load balancer", address="10.0.3.7"),
    Party("a neighbour in the VPC", address="10.0.100.7"),
    Party("Redis and endpoints", address="10.0.241.7"),
    Party("another private network", address="192.168.1.1"),
    Party("a carrier's network", address="100.64.0.7"),
    Party("the link by IPv6", address="fe80::7"),
    Party("a neighbour by IPv6", address="fd12::7"),
    Party("metadata service", address="169.254.169.254"),
    Party("metadata service by IPv6", address="fd00:ec2::254"),
    Party("NodeLocal DNS", address="169.254.20.10"),
    Party("DNS of Auto Mode", address="172.20.0.10"),
    Party("another Service", address="172.20.0.1"),
    Party("Pod Identity", address="169.254.170.23"),
    Party("Pod Identity by IPv6", address="fd00:ec2::23"),
]
DNS_PORTS = "53/UDP 53/TCP"
NODE_PORTS = "4369/TCP 25672/TCP 35672/TCP 35677/TCP 35682/TCP"
OTHER_PORTS = "22/TCP 80/TCP 443/TCP 443/UDP 6379/TCP 6380/TCP 8080/TCP 8081/TCP 8088/TCP 8090/TCP 8333/TCP"
MORE_PORTS = "4317/TCP 4318/TCP 5672/TCP 15672/TCP 15692/TCP 35671/TCP 35683/TCP"
PORTS = f"{DNS_PORTS} {NODE_PORTS} {OTHER_PORTS} {MORE_PORTS}".split()

EVERYWHERE = f"""
    gateway, consumer, rabbitmq, newcomer > kube-dns: {DNS_PORTS}
    monitoring > gateway, consumer: 8081/TCP
"""
LOCAL = f"""
    valkey, seaweedfs, cdn, model-server > kube-dns: {DNS_PORTS}
    entrance > gateway: 8080/TCP
    gateway > rabbitmq: 5672/TCP 15672/TCP
    consumer > rabbitmq: 5672/TCP
    gateway, consumer > valkey: 6379/TCP
    gateway, consumer, cdn > seaweedfs: 8333/TCP
    gateway, consumer > cdn: 8088/TCP
    consumer > model-server: 8090/TCP
"""
CLOUD = f"""
    gateway, consumer > public net: 443/TCP
    gateway, consumer > public net by IPv6: 443/TCP
    gateway, consumer > monitoring: 4318/TCP
    gateway > rabbitmq: 5672/TCP 15672/TCP
    consumer > rabbitmq: 5672/TCP
    rabbitmq > rabbitmq: {NODE_PORTS}
    monitoring > rabbitmq: 15692/TCP
"""
# 10.0.0.0/16 stands for the VPC: whatever listens there on Redis' port can be reached.
PRODUCTION = """
    entrance > gateway: 8080/TCP
    gateway, consumer > load balancer: 6379/TCP
    gateway, consumer > a neighbour in the VPC: 6379/TCP
    gateway, consumer > Redis and endpoints: 6379/TCP
"""
EKS = f"""
    load balancer > gateway: 8080/TCP 8081/TCP
    gateway, consumer > Redis and endpoints: 6380/TCP 443/TCP
    gateway, consumer, rabbitmq, newcomer > NodeLocal DNS: {DNS_PORTS}
    gateway, consumer, rabbitmq, newcomer > DNS of Auto Mode: {DNS_PORTS}
    gateway, consumer > Pod Identity: 80/TCP
    gateway, consumer > Pod Identity by IPv6: 80/TCP
"""
MUST_REACH = {
    "overlays/local": EVERYWHERE + LOCAL,
    "overlays/production": EVERYWHERE + CLOUD + PRODUCTION,
    "overlays/eks": EVERYWHERE + CLOUD + EKS,
}
IN_THE_CLOUD_ELSEWHERE = ("valkey", "seaweedfs", "cdn", "model-server")


def parties(overlay: str) -> list[Party]:
    """In the cloud these are no pods of ours."""
    absent = () if overlay == "overlays/local" else IN_THE_CLOUD_ELSEWHERE
    return [pod for pod in PODS if pod.name not in absent] + ADDRESSES


def table(overlay: str) -> set[Way]:
    known = {party.name for party in parties(overlay)}
    found = set()
    for line in filter(str.strip, MUST_REACH[overlay].splitlines()):
        callers, _, rest = line.strip().partition(" > ")
        called, _, ports = rest.partition(": ")
        assert {*callers.split(", "), *called.split(", ")} <= known, line
        found |= {Way(*way) for way in product(callers.split(", "), called.split(", "), ports.split())}
    return found


@cache
def open_ways(overlay: str) -> set[Way]:
    return ways(rendered(overlay).of_kind("NetworkPolicy"), parties(overlay), PORTS)


@pytest.mark.parametrize("overlay", MUST_REACH)
def test_rendered_policies_open_the_ways_of_the_table_and_no_other(overlay: str) -> None:
    """Who must reach somebody does, by each port that is named; nobody else reaches anybody."""
    assert open_ways(overlay) == table(overlay)


@pytest.mark.parametrize("overlay", MUST_REACH)
def test_every_part_of_the_policies_is_needed(overlay: str) -> None:
    """Whatever is removed, a policy, a peer or a port: the table is no longer kept."""
    manifests = rendered(overlay)
    tried = list(weakened(manifests))
    unnoticed = [removed for removed, left in tried if ways(left, parties(overlay), PORTS) == table(overlay)]
    assert unnoticed == []
    assert len(tried) > 3 * len(manifests.of_kind("NetworkPolicy"))


def test_policy_for_everybody_is_seen() -> None:
    """Planted: one that opens everything to the namespace's neighbours of the VPC."""
    opened = {
        "kind": "NetworkPolicy",
        "metadata": {"name": "planted"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 22}]}
            ],
        },
    }
    planted = Manifests([*rendered("overlays/eks").documents, opened])
    more = ways(planted.of_kind("NetworkPolicy"), parties("overlays/eks"), PORTS) - table("overlays/eks")
    assert Way("newcomer", "a neighbour in the VPC", "22/TCP") in more
