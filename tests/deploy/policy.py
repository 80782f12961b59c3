"""The rules that no schema knows. Each takes rendered manifests and yields what is wrong, a line each."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr, ValidationError

from growbin.adapters.rabbitmq.job_queue import HAND_BACK_SECONDS
from growbin.config import Settings
from growbin.telemetry import metrics
from growbin.wiring.parts import GATEWAY_SHUTDOWN_SECONDS
from tests.deploy.manifests import ROOT, Document, Manifests, Pod, growbin_containers, name_of

Rule = Callable[[Manifests], Iterator[str]]

SETTINGS = {name.upper() for name in Settings.model_fields}
# Read by the AWS library itself.
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
SECRETS = {name.upper() for name, field in Settings.model_fields.items() if field.annotation is SecretStr}
PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
EXACT_VERSION = re.compile(r"v?\d+\.\d+(\.\d+)?(-[a-z]+)?")
METADATA_NETWORKS = {"0.0.0.0/0": "169.254.0.0/16", "::/0": "fc00::/7"}
# Prometheus puts them beside a target's own.
TARGET_LABELS = {"namespace", "pod"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PATIENCE_SECONDS = 30  # before a restart: longer than anything that passes by itself
ROOM_SECONDS = 5
CONSUMER_BYTES = 512 << 20  # with 32 photos of 10 MB in hand
CHILD_BYTES = 400_000_000  # photo.py: MEMORY_BYTES, and the libraries
CALL_ROOM_SECONDS = 15  # before and after a model call: photo, advice, publication
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def probes_differ(manifests: Manifests) -> Iterator[str]:
    """Readiness asks whether work can be done; liveness only, and patiently, whether the process lives."""
    for pod in manifests.pods:
        for container in pod.containers if not pod.owner.startswith("Job/") else []:
            missing = [probe for probe in PROBES if probe not in container]
            yield from (f"{pod.owner}: no {probe}" for probe in missing)
            if missing:
                continue
            _, readiness, liveness = (container[probe] for probe in PROBES)
            if patience_seconds(liveness) < max(PATIENCE_SECONDS, 2 * patience_seconds(readiness)):
                yield f"{pod.owner}: liveness is not patient"
    for pod, container in growbin_containers(manifests):
        paths = {probe: container[probe]["httpGet"]["path"] for probe in PROBES if probe in container}
        right = dict(zip(PROBES, ("/healthz", "/readyz", "/healthz"), strict=True))
        yield from (f"{pod.owner}: {name} asks {path}" for name, path in paths.items() if path != right[name])


def patience_seconds(probe: Document) -> float:
    return float(probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3))


def probes_ask_ports_that_are_open(manifests: Manifests) -> Iterator[str]:
    """A probe names a port of its container."""
    for pod in manifests.pods:
        for container in pod.containers:
            for name in PROBES:
                probe = container.get(name, {})
                port = probe.get("httpGet", probe.get("tcpSocket", {})).get("port")
                if port is not None and port not in pod.ports:
                    yield f"{pod.owner}: {name} asks port {port}, which the container does not name"


def disruption_budgets_match(manifests: Manifests) -> Iterator[str]:
    """Each budget finds its pods and lets a node be emptied; each of growbin's deployments has one."""
    covered = set()
    for budget in manifests.of_kind("PodDisruptionBudget"):
        pods = manifests.selected(budget["spec"]["selector"])
        if len(pods) != 1:
            yield f"{name_of(budget)} selects {len(pods)} kinds of pods"
        covered |= {pod.owner for pod in pods}
        if not budget["spec"].get("maxUnavailable"):
            yield f"{name_of(budget)} lets no node be emptied"
    for pod, _ in growbin_containers(manifests):
        if pod.owner.startswith("Deployment/") and pod.owner not in covered:
            yield f"{pod.owner} has no disruption budget"


def autoscalers_own_the_replicas(manifests: Manifests) -> Iterator[str]:
    """What is scaled exists, names no replicas, and has one autoscaler."""
    targets = [scaler["spec"]["scaleTargetRef"]["name"] for scaler in _scalers(manifests)]
    for name in sorted(set(targets)):
        deployment = manifests.named("Deployment", name)
        if deployment is None:
            yield f"an autoscaler scales Deployment/{name}, which does not exist"
        elif "replicas" in deployment["spec"]:
            yield f"Deployment/{name} names its replicas and has an autoscaler"
        if targets.count(name) > 1:
            yield f"Deployment/{name} has two autoscalers"


def _scalers(manifests: Manifests) -> list[Document]:
    return manifests.of_kind("HorizontalPodAutoscaler", "ScaledObject")


def consumers_scale_on_all_their_work(manifests: Manifests) -> Iterator[str]:
    """KEDA counts ready and unacknowledged messages of the queue that the consumers read, and adds none of
    them while a breaker is open. (test_scaling.py asks Prometheus what it makes of the query.)"""
    for scaler in manifests.of_kind("ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            query = trigger["metadata"].get("query", "")
            counted = re.findall(r"(rabbitmq_queue_\w+)\{[^}]*queue=\"([^\"]+)\"", query)
            if {name for name, _ in counted} != {"rabbitmq_queue_messages"}:
                yield f"{name_of(scaler)} does not count unacknowledged messages"
            if "growbin_part_away" not in query:
                yield f"{name_of(scaler)} adds consumers while a breaker is open"
            for _, container in growbin_containers(manifests):
                read = _environment(manifests, container).get("QUEUE_NAME", default_of("queue_name"))
                for queue in sorted({queue for _, queue in counted} - {read}):
                    yield f"{name_of(scaler)} counts {queue}, and consumers read {read}"


def trouble_shrinks_no_fleet(manifests: Manifests) -> Iterator[str]:
    """Where nobody can count the work, the number of consumers stays or rises."""
    for scaler in manifests.of_kind("ScaledObject"):
        if scaler["spec"].get("fallback", {}).get("behavior") != "currentReplicasIfHigher":
            yield f"{name_of(scaler)} shrinks a larger fleet when its metric is away"
        for trigger in scaler["spec"]["triggers"]:
            if trigger["type"] == "prometheus" and trigger["metadata"].get("ignoreNullValues") != "false":
                yield f"{name_of(scaler)} takes no answer for no work"


def requests_are_what_is_used(manifests: Manifests) -> Iterator[str]:
    """An autoscaler that looks at CPU lets a pod use what it has asked its node for."""
    for scaler in manifests.of_kind("HorizontalPodAutoscaler"):
        deployment = manifests.named("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        used = [
            metric["resource"]["target"].get("averageValue")
            for metric in scaler["spec"]["metrics"]
            if metric["type"] == "Resource" and metric["resource"]["name"] == "cpu"
        ]
        containers = deployment["spec"]["template"]["spec"]["containers"] if deployment else []
        asked = [container["resources"]["requests"]["cpu"] for container in containers]
        if deployment and used != asked:
            yield f"{name_of(scaler)} lets pods use {used} of CPU that ask for {asked}"


def secrets_can_be_replaced(manifests: Manifests) -> Iterator[str]:
    """RabbitMQ's first user is read once and made once; clients name the user of the day."""
    for cluster in manifests.of_kind("RabbitmqCluster"):
        name = cluster["spec"]["secretBackend"]["externalSecret"]["name"]
        first = manifests.named("ExternalSecret", name)
        if first is None or first["spec"].get("refreshPolicy") != "CreatedOnce":
            yield f"{name_of(cluster)} takes its first user from {name}, which is refreshed"
    for secret in manifests.of_kind("ExternalSecret"):
        for key, value in secret["spec"]["target"]["template"]["data"].items():
            if re.search(r"://[^{/]+:\{\{", value):
                yield f"{name_of(secret)}: {key} holds a user's name that cannot be replaced"


KEPT = {"Prune=false", "Delete=false"}


def argo_cd_keeps_the_broker(manifests: Manifests) -> Iterator[str]:
    """Whatever is no longer in the repository, the broker, its volumes and its user stay."""
    kept = manifests.of_kind("RabbitmqCluster", "Namespace", "StorageClass")
    first_users = {
        cluster["spec"]["secretBackend"]["externalSecret"]["name"]
        for cluster in manifests.of_kind("RabbitmqCluster")
    }
    kept += [it for it in manifests.of_kind("ExternalSecret") if it["metadata"]["name"] in first_users]
    for document in kept:
        options = document["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-options", "")
        if not set(options.split(",")) >= KEPT:
            yield f"{name_of(document)} may be pruned or deleted by Argo CD"


def volumes_outlive_their_claims(manifests: Manifests) -> Iterator[str]:
    """A storage class of ours keeps what is on it, is encrypted, and is the one that the broker asks for."""
    classes = manifests.of_kind("StorageClass")
    for storage in classes:
        if storage.get("reclaimPolicy") != "Retain" or storage["parameters"].get("encrypted") != "true":
            yield f"{name_of(storage)} loses its data with the claim, or keeps them in clear text"
    names = {storage["metadata"]["name"] for storage in classes}
    for cluster in manifests.of_kind("RabbitmqCluster") if classes else []:
        if cluster["spec"]["persistence"].get("storageClassName") not in names:
            yield f"{name_of(cluster)} asks for no storage class, and EKS has no default"


def cookies_stay_closed(manifests: Manifests) -> Iterator[str]:
    """A volume that is opened to a group at each mount opens RabbitMQ's cookie, which it then refuses."""
    for pod in manifests.pods:
        context = pod.spec.get("securityContext", {})
        if "fsGroup" in context and context.get("fsGroupChangePolicy") != "OnRootMismatch":
            yield f"{pod.owner} opens its volume to its group at each mount"


def load_balancer_is_the_trusted_proxy(manifests: Manifests) -> Iterator[str]:
    """The networks that the gateway takes clients from are those whose forwarded address it believes."""
    for ingress in manifests.of_kind("Ingress"):
        said = ingress["metadata"]["annotations"]
        policies = [
            policy
            for policy in manifests.of_kind("NetworkPolicy")
            for opening in policy["spec"].get("ingress", [])
            if any("ipBlock" in peer for peer in opening["from"])
        ]
        let_in = {
            peer["ipBlock"]["cidr"]
            for policy in policies
            for opening in policy["spec"]["ingress"]
            for peer in opening["from"]
        }
        opened = {
            port["port"] for policy in policies for it in policy["spec"]["ingress"] for port in it["ports"]
        }
        for pod, container in growbin_containers(manifests):
            if container.get("args") != ["gateway"]:
                continue
            trusted = set((_environment(manifests, container).get("TRUSTED_PROXIES") or "").split(","))
            if trusted != let_in:
                yield f"{pod.owner} trusts {sorted(trusted)}, and {sorted(let_in)} is let in"
            asked = int(said["alb.ingress.kubernetes.io/healthcheck-port"])
            if not {asked, pod.ports["http"]} <= opened:
                yield f"{name_of(ingress)} asks {asked}, and {sorted(opened)} are open to it"


def default_of(name: str) -> Any:
    return Settings.model_fields[name].default


def network_is_closed(manifests: Manifests) -> Iterator[str]:
    """All is denied both ways; what a policy opens, it opens to somebody."""
    closed = [
        policy
        for policy in manifests.of_kind("NetworkPolicy")
        if policy["spec"]["podSelector"] == {} and policy["spec"].keys() == {"podSelector", "policyTypes"}
        if set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    ]
    if not closed:
        yield "no NetworkPolicy denies everything by default"
    for policy in manifests.of_kind("NetworkPolicy"):
        for way, peers in (("ingress", "from"), ("egress", "to")):
            for opening in policy["spec"].get(way, []):
                if not opening.get(peers) or not opening.get("ports"):
                    yield f"{name_of(policy)}: {way} is open to everybody or on every port"
                for peer in opening.get(peers, []):
                    block = peer.get("ipBlock", {})
                    local = METADATA_NETWORKS.get(block.get("cidr"))
                    if local and local not in block.get("except", []):
                        yield f"{name_of(policy)}: the metadata service can be reached"


def policy_ports_are_container_ports(manifests: Manifests) -> Iterator[str]:
    """A policy opens only ports that its pods listen on, and finds pods at all."""
    for policy in manifests.of_kind("NetworkPolicy"):
        pods = manifests.selected(policy["spec"]["podSelector"])
        if not pods:
            yield f"{name_of(policy)} selects no pod"
        for opening in policy["spec"].get("ingress", []):
            yield from _not_listening(policy, pods, opening)
        for opening in policy["spec"].get("egress", []):
            for peer in opening["to"]:
                if set(peer) == {"podSelector"}:
                    yield from _not_listening(policy, manifests.selected(peer["podSelector"]), opening)


def _not_listening(policy: Document, pods: list[Pod], opening: Document) -> Iterator[str]:
    open_ports = {port for pod in pods for port in pod.ports.values()}
    for port in opening["ports"]:
        if missing := set(range(port["port"], port.get("endPort", port["port"]) + 1)) - open_ports:
            yield f"{name_of(policy)} opens {sorted(missing)}, and nobody it selects listens there"


def neighbours_let_each_other_through(manifests: Manifests) -> Iterator[str]:
    """Whatever may go out to a pod may also come in there: default-deny holds both sides."""
    let_in = {
        (caller.owner, called.owner, port["port"])
        for policy in manifests.of_kind("NetworkPolicy")
        for called in manifests.selected(policy["spec"]["podSelector"])
        for opening in policy["spec"].get("ingress", [])
        for peer in opening.get("from", [])
        if set(peer) == {"podSelector"}
        for caller in manifests.selected(peer["podSelector"])
        for port in opening["ports"]
    }
    let_out = {
        (caller.owner, called.owner, port["port"])
        for policy in manifests.of_kind("NetworkPolicy")
        for caller in manifests.selected(policy["spec"]["podSelector"])
        for opening in policy["spec"].get("egress", [])
        for peer in opening.get("to", [])
        if set(peer) == {"podSelector"}
        for called in manifests.selected(peer["podSelector"])
        for port in opening["ports"]
    }
    for caller, called, port in sorted(let_in ^ let_out):
        side = "come in" if (caller, called, port) in let_out else "go out"
        yield f"{caller} to {called} on {port} may not {side}"


def addresses_lead_to_pods(manifests: Manifests) -> Iterator[str]:
    """Each Service finds pods and a port of theirs; each route finds its Service."""
    for service in manifests.of_kind("Service"):
        pods = manifests.selected({"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            if not any(port["targetPort"] in pod.ports for pod in pods):
                yield f"{name_of(service)}: no pod it selects has the port {port['targetPort']}"
    for route in manifests.of_kind("HTTPRoute"):
        for backend in (backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]):
            behind = manifests.named("Service", backend["name"])
            if behind is None or backend["port"] not in [port["port"] for port in behind["spec"]["ports"]]:
                yield f"{name_of(route)} leads to {backend['name']}:{backend['port']}, which does not exist"
    for ingress in manifests.of_kind("Ingress"):
        for path in (path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]):
            to = path["backend"]["service"]
            behind = manifests.named("Service", to["name"])
            if behind is None or to["port"]["name"] not in [it["name"] for it in behind["spec"]["ports"]]:
                yield f"{name_of(ingress)} leads to {to['name']}:{to['port']}, which does not exist"


def streams_pass_unhindered(manifests: Manifests) -> Iterator[str]:
    """No route limits a stream's time or holds its events back."""
    for route in manifests.of_kind("HTTPRoute"):
        for rule in route["spec"]["rules"]:
            if rule.get("timeouts") != {"request": "0s", "backendRequest": "0s"}:
                yield f"{name_of(route)} cuts long streams"
            headers = [
                header
                for given in rule.get("filters", [])
                for header in given.get("responseHeaderModifier", {}).get("set", [])
            ]
            if {"name": "X-Accel-Buffering", "value": "no"} not in headers:
                yield f"{name_of(route)} may buffer streams"
    for ingress in manifests.of_kind("Ingress"):
        said = ingress["metadata"]["annotations"]["alb.ingress.kubernetes.io/load-balancer-attributes"]
        [idle_seconds] = re.findall(r"idle_timeout\.timeout_seconds=(\d+)", said)
        heartbeat_seconds, kept_seconds = (
            default_of("stream_heartbeat_seconds"),
            default_of("keepalive_seconds"),
        )
        if not 3 * heartbeat_seconds <= int(idle_seconds) < kept_seconds:
            yield f"{name_of(ingress)} closes streams, or uses connections that the gateway is closing"


def variables_are_settings(manifests: Manifests) -> Iterator[str]:
    """Every variable is a setting of growbin, its value is accepted, and its port is the container's."""
    for pod, container in growbin_containers(manifests, init_too=True):
        try:
            given = manifests.environment(container)
        except KeyError as missing:
            yield f"{pod.owner}: {missing} is referred to and does not exist"
            continue
        yield from (
            f"{pod.owner}: {name} is no setting" for name in sorted(given.keys() - SETTINGS - CREDENTIALS)
        )
        known = {name.lower(): value for name, value in given.items() if value is not None}
        try:
            settings = Settings(**known)  # type: ignore[arg-type]  # texts, as from the environment
        except ValidationError as error:
            yield from (f"{pod.owner}: {found['loc']}: {found['msg']}" for found in error.errors())
            continue
        if container in pod.init_containers:
            continue
        ports = {"http": settings.port, "probe": settings.probe_port}
        for name, port in pod.ports.items():
            if ports.get(name) != port:
                yield f"{pod.owner}: listens on {ports.get(name)}, and its port {name} is {port}"
        if pod.ports and {settings.host, settings.probe_host} != {"0.0.0.0"}:
            yield f"{pod.owner}: listens only to itself"


def _environment(manifests: Manifests, container: Document) -> dict[str, str | None]:
    try:
        return manifests.environment(container)
    except KeyError:  # told by variables_are_settings
        return {}


def secrets_stay_out_of_config_maps(manifests: Manifests) -> Iterator[str]:
    """Keys and passwords stand in Secrets only; each process gets only those that it uses."""
    for config_map in manifests.of_kind("ConfigMap"):
        for name, value in config_map["data"].items():
            if name in SECRETS | CREDENTIALS or (name in SETTINGS and PASSWORD_IN_URL.search(value)):
                yield f"{name_of(config_map)} tells {name}"
    for pod, container in growbin_containers(manifests):
        if container.get("args") == ["gateway"] and "OPENAI_API_KEY" in _environment(manifests, container):
            yield f"{pod.owner} is given the model's key, which it does not need"


def images_are_exact(manifests: Manifests) -> Iterator[str]:
    """An image is named by one version: no latest, no digest that nobody has pulled, ours as in pyproject."""
    images = [
        (pod.owner, container["image"])
        for pod in manifests.pods
        for container in [*pod.init_containers, *pod.containers]
    ]
    images += [(name_of(owner), owner["spec"]["image"]) for owner in manifests.of_kind("RabbitmqCluster")]
    for owner, image in images:
        name, _, tag = image.rpartition(":")
        if not EXACT_VERSION.fullmatch(tag) or "@" in image:
            yield f"{owner}: {image} names no exact version"
        elif name.split("/")[-1] in ("growbin", "growbin-model") and tag != VERSION:
            yield f"{owner}: {image} is not of this version, {VERSION}"


def pods_are_restricted(manifests: Manifests) -> Iterator[str]:
    """What the restricted standard asks, a read-only root, no token, and bounds on memory and scratch."""
    for namespace in manifests.of_kind("Namespace"):
        if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{name_of(namespace)} does not enforce the restricted standard"
    for pod in manifests.pods:
        if not pod.spec:
            continue
        context = pod.spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.owner} may run as root or without seccomp"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.owner} is given a token of the cluster"
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{pod.owner}: the volume {volume['name']} has no bound"
        for container in [*pod.init_containers, *pod.containers]:
            if container.get("securityContext") != {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }:
                yield f"{pod.owner}: {container['name']} may change its root or its privileges"
            resources = container.get("resources", {})
            if (
                "memory" not in resources.get("limits", {})
                or not {"cpu", "memory"} <= resources.get("requests", {}).keys()
            ):
                yield f"{pod.owner}: {container['name']} has no bound on its memory or no requests"


def consumers_have_room_for_their_children(manifests: Manifests) -> Iterator[str]:
    """The consumer itself, and for each child what it may hold. Their number is told, for a pod sees the
    cores of its node."""
    for pod, container in growbin_containers(manifests):
        if container.get("args") != ["consumer"]:
            continue
        children = _environment(manifests, container).get("PHOTO_CHILDREN")
        if not children:
            yield f"{pod.owner} starts a child for each core of its node"
            continue
        needed_bytes = CONSUMER_BYTES + int(children) * CHILD_BYTES
        limit = str(container["resources"]["limits"]["memory"])
        if int(limit.removesuffix("Mi")) << 20 < needed_bytes:
            yield f"{pod.owner} has {limit}, and needs {needed_bytes / (1 << 20):.0f}Mi with its children"


def grace_is_long_enough(manifests: Manifests) -> Iterator[str]:
    """Kubernetes waits longer than the process may need: preStop, then its own drain, and room."""
    for pod, container in growbin_containers(manifests):
        pre_stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        match container.get("args"):
            case ["gateway"]:
                needed = pre_stop + 2 * GATEWAY_SHUTDOWN_SECONDS + ROOM_SECONDS
                if pre_stop < ROOM_SECONDS:
                    yield f"{pod.owner} stops before the load balancers know"
            case ["consumer"]:
                given = _environment(manifests, container)
                grace_seconds, call_seconds = (
                    float(given.get(name.upper()) or default_of(name))
                    for name in ("consumer_grace_seconds", "model_timeout_seconds")
                )
                if grace_seconds < call_seconds + CALL_ROOM_SECONDS:
                    yield f"{pod.owner} gives up before a model call of {call_seconds:g} s is over"
                needed = pre_stop + grace_seconds + HAND_BACK_SECONDS + ROOM_SECONDS
            case _:
                continue
        if not pod.spec.get("terminationGracePeriodSeconds", 30) >= needed:
            yield f"{pod.owner} is killed before it has had its {needed:g} s"


def pods_spread(manifests: Manifests) -> Iterator[str]:
    """Growbin's pods are spread over zones and nodes, counted by their own labels."""
    for pod, _ in growbin_containers(manifests):
        if not pod.owner.startswith("Deployment/"):
            continue
        constraints = pod.spec.get("topologySpreadConstraints", [])
        keys = {item["topologyKey"] for item in constraints}
        if keys != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield f"{pod.owner} is not spread over zones and nodes"
        if any(item["labelSelector"]["matchLabels"] != pod.labels for item in constraints):
            yield f"{pod.owner} counts others when it spreads"


def metrics_are_measured(manifests: Manifests) -> Iterator[str]:
    """Alerts and autoscalers read metrics, and labels, that growbin really has."""
    measured = {
        next(iter(metric.describe())).name: metric._labelnames
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
    }
    texts = [
        (name_of(rules), rule["expr"])
        for rules in manifests.of_kind("PrometheusRule")
        for rule in _alerts(rules)
    ]
    texts += [
        (name_of(scaler), metric["pods"]["metric"]["name"])
        for scaler in manifests.of_kind("HorizontalPodAutoscaler")
        for metric in scaler["spec"]["metrics"]
        if metric["type"] == "Pods"
    ]
    texts += [
        (name_of(scaler), trigger["metadata"].get("query", ""))
        for scaler in manifests.of_kind("ScaledObject")
        for trigger in scaler["spec"]["triggers"]
    ]
    for owner, text in texts:
        for name, chosen in re.findall(r"(growbin_\w+)(?:\{([^}]*)\})?", text):
            family = re.sub("_(total|bucket|sum|count)$", "", name)
            if family not in measured:
                yield f"{owner} reads {name}, which nothing measures"
            elif unknown := (set(re.findall(r"(\w+)[=!]", chosen)) - TARGET_LABELS - set(measured[family])):
                yield f"{owner} chooses by {sorted(unknown)}, and {name} has no such label"


def _alerts(rules: Document) -> list[Document]:
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def alerts_are_explained(manifests: Manifests) -> Iterator[str]:
    """Whoever is called at night finds the alert's line in the operations page."""
    page = (ROOT / "docs" / "operations.md").read_text()
    for rules in manifests.of_kind("PrometheusRule"):
        for rule in _alerts(rules):
            if f"| `{rule['alert']}` |" not in page:
                yield f"{rule['alert']} has no line in docs/operations.md"


RULES: tuple[Rule, ...] = (
    probes_differ,
    probes_ask_ports_that_are_open,
    disruption_budgets_match,
    autoscalers_own_the_replicas,
    consumers_scale_on_all_their_work,
    trouble_shrinks_no_fleet,
    requests_are_what_is_used,
    secrets_can_be_replaced,
    argo_cd_keeps_the_broker,
    volumes_outlive_their_claims,
    cookies_stay_closed,
    network_is_closed,
    policy_ports_are_container_ports,
    neighbours_let_each_other_through,
    addresses_lead_to_pods,
    load_balancer_is_the_trusted_proxy,
    streams_pass_unhindered,
    variables_are_settings,
    secrets_stay_out_of_config_maps,
    images_are_exact,
    pods_are_restricted,
    consumers_have_room_for_their_children,
    grace_is_long_enough,
    pods_spread,
    metrics_are_measured,
    alerts_are_explained,
)


def findings(manifests: Manifests) -> list[str]:
    """What all rules find."""
    return [finding for rule in RULES for finding in rule(manifests)]
