"""Each check goes red for the mistake it is there for: planted in a copy, found by its words."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.deploy.checkers import checked_resources, run_checker
from tests.deploy.definitions import DEFINITIONS, wrong
from tests.deploy.manifests import K8S, ROOT, Manifests, render
from tests.deploy.policy import findings
from tests.deploy.scanner import SUPPRESSED, scan
from tests.deploy.test_schemas import core_findings

GATEWAY, CONSUMER, NETWORK = "base/gateway.yaml", "base/consumer.yaml", "base/network.yaml"
LOCAL, PRODUCTION, EKS = "overlays/local/", "overlays/production/", "components/eks/"


@dataclass(frozen=True)
class Mistake:
    """In `file`, `old` (once) becomes `new`; then some finding says `told`."""

    name: str
    file: str
    old: str
    new: str
    told: str


AGAINST_POLICY = [
    Mistake(
        "liveness asks for readiness",
        GATEWAY,
        "livenessProbe:\n            httpGet: {path: /healthz",
        "livenessProbe:\n            httpGet: {path: /readyz",
        "Deployment/gateway: livenessProbe asks /readyz",
    ),
    Mistake(
        "hasty liveness",
        CONSUMER,
        "timeoutSeconds: 5\n            failureThreshold: 6",
        "timeoutSeconds: 5\n            failureThreshold: 1",
        "Deployment/consumer: liveness is not patient",
    ),
    Mistake(
        "probe of an unnamed port",
        GATEWAY,
        "readinessProbe:\n            httpGet: {path: /readyz, port: probe}",
        "readinessProbe:\n            httpGet: {path: /readyz, port: probes}",
        "readinessProbe asks port probes",
    ),
    Mistake(
        "budget for nobody",
        GATEWAY,
        "maxUnavailable: 1\n  selector:\n    matchLabels:\n      app.kubernetes.io/name: growbin\n"
        "      app.kubernetes.io/component: gateway",
        "maxUnavailable: 1\n  selector:\n    matchLabels:\n      app: gateway",
        "PodDisruptionBudget/gateway selects 0 kinds of pods",
    ),
    Mistake(
        "replicas under KEDA",
        CONSUMER,
        "spec:\n  selector:\n    matchLabels: *labels\n  strategy",
        "spec:\n  replicas: 3\n  selector:\n    matchLabels: *labels\n  strategy",
        "Deployment/consumer names its replicas and has an autoscaler",
    ),
    Mistake(
        "two autoscalers",
        PRODUCTION + "scaling.yaml",
        "kind: Deployment\n    name: gateway",
        "kind: Deployment\n    name: consumer",
        "Deployment/consumer has two autoscalers",
    ),
    Mistake(
        "only ready messages counted",
        PRODUCTION + "scaling.yaml",
        "rabbitmq_queue_messages{",
        "rabbitmq_queue_messages_ready{",
        "does not count unacknowledged messages",
    ),
    Mistake(
        "another queue counted",
        PRODUCTION + "scaling.yaml",
        'queue="growbin.jobs"',
        'queue="growbin.job"',
        "counts growbin.job, and consumers read growbin.jobs",
    ),
    Mistake(
        "consumers added whatever is away",
        PRODUCTION + "scaling.yaml",
        '              unless on () (max(avg by (part) (growbin_part_away{namespace="growbin"})) >= 0.5)\n'
        "          )\n          or\n          clamp_max(\n"
        '            sum(rabbitmq_queue_messages{namespace="growbin",queue="growbin.jobs"}),\n'
        '            24 * scalar(count(growbin_part_away{namespace="growbin",part="model"}))\n',
        "",
        "ScaledObject/consumer adds consumers while a breaker is open",
    ),
    Mistake(
        "autoscaler by a metric of nobody",
        PRODUCTION + "scaling.yaml",
        "(growbin_part_away{",
        "(growbin_breaker_open{",
        "growbin_breaker_open, which nothing measures",
    ),
    Mistake(
        "fallback that shrinks a fleet",
        PRODUCTION + "scaling.yaml",
        "    behavior: currentReplicasIfHigher\n",
        "",
        "ScaledObject/consumer shrinks a larger fleet",
    ),
    Mistake(
        "no answer taken for no work",
        PRODUCTION + "scaling.yaml",
        'ignoreNullValues: "false"',
        'ignoreNullValues: "true"',
        "ScaledObject/consumer takes no answer for no work",
    ),
    Mistake(
        "request far from what is used",
        GATEWAY,
        "requests: {cpu: 500m",
        "requests: {cpu: 100m",
        "HorizontalPodAutoscaler/gateway lets pods use ['500m'] of CPU that ask for ['100m']",
    ),
    Mistake(
        "first user refreshed",
        PRODUCTION + "secrets.yaml",
        "  refreshPolicy: CreatedOnce\n",
        "  refreshInterval: 1h\n",
        "takes its first user from rabbitmq-user, which is refreshed",
    ),
    Mistake(
        "user that cannot be replaced",
        PRODUCTION + "secrets.yaml",
        "amqp://{{ .rabbitmq_user }}:",
        "amqp://growbin:",
        "RABBITMQ_URL holds a user's name that cannot be replaced",
    ),
    Mistake(
        "broker that Argo CD may prune",
        PRODUCTION + "rabbitmq.yaml",
        "argocd.argoproj.io/sync-options: Prune=false,Delete=false",
        "argocd.argoproj.io/sync-options: Delete=false",
        "RabbitmqCluster/rabbitmq may be pruned",
    ),
    Mistake(
        "namespace that Argo CD may delete",
        "base/namespace.yaml",
        "Prune=false,Delete=false",
        "Prune=false",
        "Namespace/growbin may be pruned or deleted",
    ),
    Mistake(
        "broker's user that Argo CD may prune",
        PRODUCTION + "secrets.yaml",
        "  annotations:\n    argocd.argoproj.io/sync-options: Prune=false,Delete=false\n",
        "",
        "ExternalSecret/rabbitmq-user may be pruned",
    ),
    Mistake(
        "volumes that go with their claims",
        EKS + "storage.yaml",
        "reclaimPolicy: Retain",
        "reclaimPolicy: Delete",
        "StorageClass/growbin-gp3 loses its data",
    ),
    Mistake(
        "broker without a storage class",
        EKS + "kustomization.yaml",
        "value: growbin-gp3",
        "value: gp2",
        "RabbitmqCluster/rabbitmq asks for no storage class",
    ),
    Mistake(
        "cookie opened to the group",
        LOCAL + "rabbitmq.yaml",
        "        fsGroupChangePolicy: OnRootMismatch\n",
        "",
        "StatefulSet/rabbitmq opens its volume",
    ),
    Mistake(
        "load balancer that nobody believes",
        EKS + "kustomization.yaml",
        "TRUSTED_PROXIES=10.0.0.0/20",
        "TRUSTED_PROXIES=10.0.0.0/24",
        "Deployment/gateway trusts ['10.0.0.0/24'], and ['10.0.0.0/20'] is let in",
    ),
    Mistake(
        "health check of a closed port",
        EKS + "ingress.yaml",
        'healthcheck-port: "8081"',
        'healthcheck-port: "8082"',
        "Ingress/gateway asks 8082",
    ),
    Mistake(
        "load balancer that outlasts the gateway's connections",
        EKS + "ingress.yaml",
        "idle_timeout.timeout_seconds=60",
        "idle_timeout.timeout_seconds=120",
        "Ingress/gateway closes streams, or uses connections",
    ),
    Mistake(
        "load balancer without a Service",
        EKS + "ingress.yaml",
        "port: {name: http}",
        "port: {name: web}",
        "Ingress/gateway leads to gateway",
    ),
    Mistake(
        "variable of the bucket's rules misspelled",
        LOCAL + "cdn.yaml",
        "- name: AWS_ACCESS_KEY_ID\n",
        "- name: AWS_ACCESS_KEY\n",
        "Deployment/cdn: AWS_ACCESS_KEY is no setting",
    ),
    Mistake(
        "bucket's rules set by root",
        LOCAL + "cdn.yaml",
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "Deployment/cdn: bucket may change its root",
    ),
    Mistake(
        "default-deny left out of one direction",
        NETWORK,
        "podSelector: {}\n  policyTypes: [Ingress, Egress]",
        "podSelector: {}\n  policyTypes: [Ingress]",
        "no NetworkPolicy denies everything by default",
    ),
    Mistake(
        "open to everybody",
        NETWORK,
        "- from:\n        - namespaceSelector:\n            matchLabels:\n"
        '              growbin-entrance: "yes"\n      ports:',
        "- ports:",
        "NetworkPolicy/gateway-clients: ingress is open to everybody",
    ),
    Mistake(
        "metadata service within reach",
        PRODUCTION + "network.yaml",
        "169.254.0.0/16, ",
        "",
        "the metadata service can be reached",
    ),
    Mistake(
        "metadata service within reach by IPv6",
        PRODUCTION + "network.yaml",
        "except: [fc00::/7, ",
        "except: [",
        "the metadata service can be reached",
    ),
    Mistake(
        "policy for the wrong port",
        NETWORK,
        "{protocol: TCP, port: 8081}",
        "{protocol: TCP, port: 9090}",
        "NetworkPolicy/metrics opens [9090], and nobody it selects listens there",
    ),
    Mistake(
        "let out and not let in",
        LOCAL + "network.yaml",
        "        - podSelector: {matchLabels: {app.kubernetes.io/name: cdn}}\n",
        "",
        "Deployment/cdn to StatefulSet/seaweedfs on 8333 may not come in",
    ),
    Mistake(
        "service for another port",
        GATEWAY,
        "targetPort: http",
        "targetPort: web",
        "Service/gateway: no pod it selects has the port web",
    ),
    Mistake(
        "streams cut after a minute",
        "base/route.yaml",
        "request: 0s",
        "request: 60s",
        "HTTPRoute/gateway cuts long streams",
    ),
    Mistake(
        "misspelled variable",
        "base/kustomization.yaml",
        "CONSUMER_GRACE_SECONDS=75",
        "CONSUMER_GRACE_SECOND=75",
        "CONSUMER_GRACE_SECOND is no setting",
    ),
    Mistake(
        "value that growbin refuses",
        PRODUCTION + "kustomization.yaml",
        "CDN_BASE_URL=https://",
        "CDN_BASE_URL=",
        "must start with http:// or https://",
    ),
    Mistake(
        "port that is not the container's",
        "base/kustomization.yaml",
        "PROBE_PORT=8081",
        "PROBE_PORT=8082",
        "Deployment/gateway: listens on 8082, and its port probe is 8081",
    ),
    Mistake(
        "key that the secret does not hold",
        PRODUCTION + "secrets.yaml",
        "        REDIS_URL:",
        "        REDIS_URI:",
        "'REDIS_URL' is referred to and does not exist",
    ),
    Mistake(
        "password in a config map",
        PRODUCTION + "kustomization.yaml",
        "- SECURE_COOKIES=true",
        "- SECURE_COOKIES=true\n      - REDIS_URL=redis://:hidden@redis:6379",
        "tells REDIS_URL",
    ),
    Mistake(
        "latest image",
        LOCAL + "model-server.yaml",
        "image: growbin-model:0.1.0",
        "image: growbin-model:latest",
        "growbin-model:latest names no exact version",
    ),
    Mistake(
        "image of another version",
        PRODUCTION + "kustomization.yaml",
        "newTag: 0.1.0",
        "newTag: 0.0.9",
        "growbin:0.0.9 is not of this version",
    ),
    Mistake(
        "invented digest",
        PRODUCTION + "rabbitmq.yaml",
        "rabbitmq:4.2.2-management",
        "rabbitmq:4.2.2-management@sha256:" + 64 * "0",
        "names no exact version",
    ),
    Mistake(
        "writable root",
        CONSUMER,
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "Deployment/consumer: consumer may change its root",
    ),
    Mistake(
        "one child more than the pod has room for",
        "base/kustomization.yaml",
        "PHOTO_CHILDREN=3",
        "PHOTO_CHILDREN=4",
        "Deployment/consumer has 1664Mi, and needs 2038Mi",
    ),
    Mistake(
        "as many children as the node has cores",
        "base/kustomization.yaml",
        "      - PHOTO_CHILDREN=3\n",
        "",
        "Deployment/consumer starts a child for each core of its node",
    ),
    Mistake(
        "grace shorter than the drain",
        CONSUMER,
        "terminationGracePeriodSeconds: 90",
        "terminationGracePeriodSeconds: 60",
        "Deployment/consumer is killed before it has had its 85 s",
    ),
    Mistake(
        "model call longer than the drain",
        PRODUCTION + "kustomization.yaml",
        "- SECURE_COOKIES=true",
        "- MODEL_TIMEOUT_SECONDS=90",
        "Deployment/consumer gives up before a model call of 90 s is over",
    ),
    Mistake(
        "no preStop",
        GATEWAY,
        "preStop:\n              sleep: {seconds: 10}",
        "preStop:\n              sleep: {seconds: 0}",
        "Deployment/gateway stops before the load balancers know",
    ),
    Mistake(
        "all pods on one node",
        GATEWAY,
        "topologyKey: kubernetes.io/hostname",
        "topologyKey: topology.kubernetes.io/region",
        "Deployment/gateway is not spread",
    ),
    Mistake(
        "alert on a metric of nobody",
        PRODUCTION + "alerts.yaml",
        "max(growbin_open_streams)",
        "max(growbin_sse_connections_active)",
        "growbin_sse_connections_active, which nothing measures",
    ),
    Mistake(
        "alert by a label of nobody",
        PRODUCTION + "alerts.yaml",
        'growbin_uploads_total{outcome="unavailable"}',
        'growbin_uploads_total{code="unavailable"}',
        "chooses by code",
    ),
    Mistake(
        "alert on a value that no label has",
        PRODUCTION + "alerts.yaml",
        'growbin_uploads_total{outcome="backlog_full"}',
        'growbin_uploads_total{outcome="full"}',
        "outcome=full, which growbin_uploads_total never has",
    ),
    Mistake(
        "alert without a word",
        PRODUCTION + "alerts.yaml",
        "alert: GrowbinDeadLetters",
        "alert: GrowbinSomething",
        "GrowbinSomething has no runbook",
    ),
    Mistake(
        "alert with another one's runbook",
        PRODUCTION + "alerts.yaml",
        "runbook: docs/alerts.md#growbindeadletters",
        "runbook: docs/alerts.md#growbinpartaway",
        "GrowbinDeadLetters leads to another runbook",
    ),
]

AGAINST_CORE_SCHEMAS = [
    Mistake("unknown field", GATEWAY, "maxSurge: 1", "maximumSurge: 1", "maximumSurge"),
    Mistake("wrong type", CONSUMER, "containerPort: 8081", 'containerPort: "8081"', "containerPort"),
]

AGAINST_DEFINITIONS = [
    Mistake(
        "RabbitMQ field that does not exist",
        PRODUCTION + "rabbitmq.yaml",
        "  persistence:\n    storage: 20Gi",
        "  persistence:\n    size: 20Gi",
        "RabbitmqCluster/rabbitmq: .spec.persistence.size is no field",
    ),
    Mistake(
        "RabbitMQ nodes as a text",
        PRODUCTION + "rabbitmq.yaml",
        "replicas: 3",
        'replicas: "3"',
        "RabbitmqCluster/rabbitmq: .spec.replicas must be of type integer",
    ),
    Mistake(
        "RabbitMQ override misplaced",
        PRODUCTION + "rabbitmq.yaml",
        "            initContainers:",
        "            initcontainers:",
        "template.spec.initcontainers is no field",
    ),
    Mistake(
        "fallback behaviour that does not exist",
        PRODUCTION + "scaling.yaml",
        "behavior: currentReplicasIfHigher",
        "behavior: current",
        "ScaledObject/consumer: .spec.fallback.behavior must be one of",
    ),
    Mistake(
        "secret made once by another word",
        PRODUCTION + "secrets.yaml",
        "refreshPolicy: CreatedOnce",
        "refreshPolicy: Once",
        "ExternalSecret/rabbitmq-user: .spec.refreshPolicy must be one of",
    ),
    Mistake(
        "pods of nobody monitored",
        PRODUCTION + "monitoring.yaml",
        "  selector:\n    matchLabels:\n      app.kubernetes.io/name: growbin\n",
        "",
        "PodMonitor/growbin: .spec.selector is missing",
    ),
]

AGAINST_CUSTOM_SCHEMAS = [
    Mistake(
        "KEDA field that does not exist",
        PRODUCTION + "scaling.yaml",
        "minReplicaCount",
        "minReplicas",
        "ScaledObject/consumer: unknown field .spec.minReplicas",
    ),
    Mistake(
        "text for a number",
        PRODUCTION + "scaling.yaml",
        "pollingInterval: 10",
        'pollingInterval: "10"',
        "pollingInterval must be integer",
    ),
    Mistake(
        "PromQL that does not parse",
        PRODUCTION + "alerts.yaml",
        "max(growbin_open_streams) > 10000",
        "max(growbin_open_streams >) 10000",
        "no PromQL: max(growbin_open_streams >) 10000",
    ),
]


def planted(mistake: Mistake, folder: Path) -> Manifests:
    """The overlay that the mistake is seen in, rendered from a copy that holds it."""
    shutil.copytree(K8S, folder / "k8s")
    file = folder / "k8s" / mistake.file
    text = file.read_text()
    assert mistake.old in text, f"{mistake.name}: the text to change is gone"
    file.write_text(text.replace(mistake.old, mistake.new, 1))
    overlays = {LOCAL: "local", EKS: "eks"}
    overlay = next((name for part, name in overlays.items() if mistake.file.startswith(part)), "production")
    return render(folder / "k8s" / "overlays" / overlay)


def assert_told(mistake: Mistake, found: list[str]) -> None:
    assert [finding for finding in found if mistake.told in finding], found


@pytest.mark.parametrize("mistake", AGAINST_POLICY, ids=lambda mistake: mistake.name)
def test_mistake_against_a_rule_is_found(mistake: Mistake, tmp_path: Path) -> None:
    """The rules name it."""
    assert_told(mistake, findings(planted(mistake, tmp_path)))


@pytest.mark.parametrize("mistake", AGAINST_CORE_SCHEMAS, ids=lambda mistake: mistake.name)
def test_mistake_against_a_core_schema_is_found(mistake: Mistake, tmp_path: Path) -> None:
    """The validation of Kubernetes' own kinds names it."""
    assert_told(mistake, core_findings(planted(mistake, tmp_path), "1.30", tmp_path))


@pytest.mark.parametrize("mistake", AGAINST_CUSTOM_SCHEMAS, ids=lambda mistake: mistake.name)
def test_mistake_against_a_custom_schema_is_found(mistake: Mistake, tmp_path: Path) -> None:
    """The validation of custom resources names it."""
    assert_told(mistake, checked_resources(planted(mistake, tmp_path))["wrong"])


@pytest.mark.skipif(not DEFINITIONS.is_dir(), reason="the operators' definitions are not ours to ship")
@pytest.mark.parametrize("mistake", AGAINST_DEFINITIONS, ids=lambda mistake: mistake.name)
def test_mistake_against_an_operators_definition_is_found(mistake: Mistake, tmp_path: Path) -> None:
    """The definition names the place."""
    assert_told(mistake, wrong(planted(mistake, tmp_path)))


def test_privileged_container_is_found_by_the_scanner(tmp_path: Path) -> None:
    """The scanner names it."""
    mistake = Mistake(
        "privileged",
        CONSUMER,
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: true\n            privileged: true",
        "CKV_K8S_16 Deployment.growbin.consumer",
    )
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(planted(mistake, tmp_path).documents))
    assert_told(mistake, scan(file, "kubernetes", SUPPRESSED))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("FROM python:3.13.9-slim-bookworm AS run", "FROM python:latest AS run", "DL3007"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ("WORKDIR /tmp", "WORKDIR tmp", "DL3000"),
    ],
)
def test_mistake_in_the_dockerfile_is_found_by_the_linter(
    old: str, new: str, told: str, tmp_path: Path
) -> None:
    """A floating base, root at run time and a relative folder are each named."""
    file = tmp_path / "Dockerfile"
    text = (ROOT / "Dockerfile").read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert told in run_checker("hadolint", str(file)).stdout
