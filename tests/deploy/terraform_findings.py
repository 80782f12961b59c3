"""What is wrong with a Terraform folder, as JSON: `{folder: ["rule: place: what"]}`.

    python -m tests.deploy.terraform_findings FOLDER…

`terraform validate` would need the provider itself, hence the network. So the arguments are compared with the
provider's schema here, and what growbin promises of its bucket and CDN is a rule of its own below. Run by the
interpreter of the deployment's checks, which has hcl2 and the schema; growbin is not imported.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

# Checkov brings it, as bc-python-hcl2; the package python-hcl2 has the same files and would break checkov.
import hcl2  # type: ignore[import-not-found, unused-ignore]  # only where the checks run

from tests.deploy.terraform_schema import META_ARGUMENTS, Schema, schema_of

SOURCE = Path(__file__).parent.parent.parent / "src" / "growbin"
INCOMING = "incoming/*"
IN_US_EAST_1 = "${aws.us_east_1}"
READ_METHODS = {"GET", "HEAD", "OPTIONS"}
LEGACY_TIMES = {"min_ttl", "default_ttl", "max_ttl", "forwarded_values"}

Values = dict[str, Any]


@dataclass(frozen=True)
class Block:
    kind: str  # "resource" or "data"
    type: str
    name: str
    place: str
    parsed: Values  # as hcl2 gives it: every value in a list

    @property
    def address(self) -> str:
        return ("data." if self.kind == "data" else "") + f"{self.type}.{self.name}"

    @property
    def schema(self) -> Schema | None:
        return schema_of(self.kind, self.type)

    @property
    def values(self) -> Values:
        """Arguments as they are written, nested blocks as lists."""
        return _plain(self.parsed, self.schema or Schema())

    @property
    def instances(self) -> dict[str, Values]:
        """By their names: one for each key of a `for_each` that is written out, with what each is given."""
        values = self.values
        given = values.pop("for_each", None)
        if not isinstance(given, dict):
            return {self.name: self.values}
        found = {}
        for quoted, words in given.items():
            key = quoted.strip('"')
            text = json.dumps(values).replace("${each.key}", key)
            for word, value in words.items():
                text = text.replace(f"${{each.value.{word}}}", str(value))
            found[f"{self.name}[{key}]"] = json.loads(text)
        return found


@dataclass(frozen=True)
class Module:
    blocks: list[Block]
    variables: dict[str, Values]
    outputs: dict[str, Values]
    local_values: dict[str, Any]
    providers: list[Values]
    text: str  # of all files, without comments

    def resources(self, type_: str) -> list[Block]:
        return [block for block in self.blocks if (block.kind, block.type) == ("resource", type_)]

    def instances(self, type_: str) -> dict[str, Values]:
        return {name: found for block in self.resources(type_) for name, found in block.instances.items()}

    def the(self, type_: str) -> Values:
        """The only one of its type; nothing at all where it is missing, so that its rule complains."""
        found = self.resources(type_)
        return found[0].values if len(found) == 1 else {}

    def document(self, name: str) -> list[Values]:
        """The statements of an IAM policy document."""
        found = [
            block for block in self.blocks if (block.type, block.name) == ("aws_iam_policy_document", name)
        ]
        return found[0].values.get("statement", []) if found else []


def read(folder: Path) -> Module:
    module = Module([], {}, {}, {}, [], "\n".join(_code(path) for path in sorted(folder.glob("*.tf"))))
    for path in sorted(folder.glob("*.tf")):
        with path.open() as file:
            parsed = hcl2.load(file)
        for kind in ("resource", "data"):
            for labelled in parsed.get(kind, []):
                for type_, named in labelled.items():
                    for name, body in named.items():
                        place = f"{path.name}:{body['__start_line__']}"
                        module.blocks.append(Block(kind, type_, name, place, body))
        for target, kind in ((module.variables, "variable"), (module.outputs, "output")):
            for named in parsed.get(kind, []):
                target.update({name: _plain(body, Schema()) for name, body in named.items()})
        for body in parsed.get("locals", []):
            module.local_values.update(_plain(body, Schema()))
        module.providers.extend(_plain(named["aws"], Schema()) for named in parsed.get("provider", []))
    return module


def _code(path: Path) -> str:
    return "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))


def _plain(body: Values, schema: Schema) -> Values:
    return {
        name: [_plain(item, schema.blocks[name]) for item in value if isinstance(item, dict)]
        if name in schema.blocks
        else value[0]
        for name, value in body.items()
        if not name.startswith("__") and isinstance(value, list)
    }


# --- what Terraform itself would refuse -----------------------------------------------------------


def arguments(module: Module) -> Iterator[str]:
    """Unknown arguments, and required ones that are missing, to any depth."""
    for block in module.blocks:
        where = f"{block.place}: {block.address}"
        if block.schema is None:
            yield f"{where}: the provider has no such type"
        else:
            yield from _compare(block.parsed, block.schema, where)


def _compare(body: Values, schema: Schema, where: str) -> Iterator[str]:
    given = {name for name in body if not name.startswith("__")} - META_ARGUMENTS
    for name in sorted(given - schema.arguments - schema.blocks.keys()):
        yield f"{where}: unknown argument {name}"
    for name in sorted(schema.required - given):
        yield f"{where}: {name} is missing"
    for name in sorted(given & schema.blocks.keys()):
        for item in body[name]:
            if isinstance(item, dict) and all(isinstance(value, list) for value in item.values()):
                yield from _compare(item, schema.blocks[name], f"{where}.{name}")
            else:
                yield f"{where}: {name} is a block, it takes no ="
    for name in sorted(given & schema.arguments):
        if len(body[name]) > 1:
            yield f"{where}: {name} is given twice"


def references(module: Module) -> Iterator[str]:
    """Names that lead nowhere, and variables and locals that nothing reads."""
    used: dict[str, set[str]] = {"var": set(), "local": set()}
    for kind, name in re.findall(r"(?<![\w.])(var|local)\.(\w+)", module.text):
        used[kind].add(name)
    for kind, known in (("var", set(module.variables)), ("local", set(module.local_values))):
        yield from (f"{kind}.{name} is not declared" for name in sorted(used[kind] - known))
        yield from (f"{kind}.{name} is never read" for name in sorted(known - used[kind]))

    blocks = {block.address: block for block in module.blocks}
    pattern = r"(?<![\w.])((?:data\.)?aws_\w+\.\w+)(?:\[[^\]]*\])?(?:\.(\w+))?"
    for address, attribute in sorted(set(re.findall(pattern, module.text))):
        block = blocks.get(address)
        if block is None:
            yield f"{address} is not declared"
        elif attribute and block.schema and attribute not in block.schema.exported:
            yield f"{address} has no attribute {attribute}"

    aliases = {provider.get("alias") for provider in module.providers}
    for alias in sorted(set(re.findall(r"(?<![\w.])aws\.(\w+)", module.text)) - aliases):
        yield f"provider aws.{alias} is not declared"


# --- what growbin promises ------------------------------------------------------------------------


def bucket_is_private(module: Module) -> Iterator[str]:
    """Public access is blocked in all four ways, and nothing is stored in clear text."""
    access = module.the("aws_s3_bucket_public_access_block")
    for way in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"):
        if access.get(way) is not True:
            yield f"{way} is not true"
    if not module.resources("aws_s3_bucket_server_side_encryption_configuration"):
        yield "the bucket is not encrypted"


def photos_expire(module: Module) -> Iterator[str]:
    """Raw uploads after 1 day, everything after 7."""
    rules = module.the("aws_s3_bucket_lifecycle_configuration").get("rule", [])
    days = {
        rule["filter"][0].get("prefix"): rule["expiration"][0].get("days")
        for rule in rules
        if rule["status"] == "Enabled" and rule.get("filter") and rule.get("expiration")
    }
    if days != {"incoming/": 1, "": 7}:
        yield f"photos expire after {days}, not after 1 and 7 days"


def cors_is_narrow(module: Module) -> Iterator[str]:
    """Browsers of the listed origins may PUT, and nothing else."""
    for rule in module.the("aws_s3_bucket_cors_configuration").get("cors_rule", [{}]):
        if rule.get("allowed_methods") != ["PUT"]:
            yield f"methods are {rule.get('allowed_methods')}, not PUT"
        if rule.get("allowed_origins") != "${var.allowed_origins}":
            yield f"origins are {rule.get('allowed_origins')}, not the variable, which refuses wildcards"
        if "*" in rule.get("allowed_headers", "*"):
            yield "any header is allowed"


def cdn_only_reads(module: Module) -> Iterator[str]:
    """Nobody writes or deletes through the CDN: not by method, and not by the bucket's policy."""
    for name, behaviour in _behaviours(module):
        if not set(behaviour.get("allowed_methods", ["none given"])) <= READ_METHODS:
            yield f"{name} allows {behaviour.get('allowed_methods')}"
    allowing = [it for it in module.document("bucket") if it.get("effect", "Allow") == "Allow"]
    if [statement.get("actions") for statement in allowing] != [["s3:GetObject"]]:
        yield "the bucket's policy allows more, or less, than s3:GetObject"
    for statement in allowing:
        conditions = [(it["variable"], it["values"]) for it in statement.get("condition", [])]
        if conditions != [("AWS:SourceArn", ["${aws_cloudfront_distribution.photos.arn}"])]:
            yield "the bucket's policy does not name this distribution as the only reader"


def origin_is_signed_for(module: Module) -> Iterator[str]:
    """Origin Access Control, not the identity that came before it."""
    if module.resources("aws_cloudfront_origin_access_identity") or "s3_origin_config" in module.text:
        yield "an origin access identity is used"
    control = module.the("aws_cloudfront_origin_access_control")
    if (control.get("signing_behavior"), control.get("signing_protocol")) != ("always", "sigv4"):
        yield "requests to the bucket are not always signed"
    for origin in _distribution(module).get("origin", [{}]):
        if "aws_cloudfront_origin_access_control." not in str(origin.get("origin_access_control_id")):
            yield "an origin has no access control"


def incoming_is_guarded(module: Module) -> Iterator[str]:
    """incoming/ asks for the reader's secret, everything else lets public names through only."""
    wanted = {"default": "public_photo", INCOMING: "incoming_photo"}
    behaviours = dict(_behaviours(module))
    if behaviours.keys() != wanted.keys():
        yield f"the behaviours are {sorted(behaviours)}, not {sorted(wanted)}"
    for name, function in wanted.items():
        attached = [
            (it.get("event_type"), it.get("function_arn"))
            for it in behaviours.get(name, {}).get("function_association", [])
        ]
        if attached != [("viewer-request", f"${{aws_cloudfront_function.{function}.arn}}")]:
            yield f"{name} does not run {function} before it answers"
    for block in module.resources("aws_cloudfront_function"):
        if block.values.get("runtime") != "cloudfront-js-2.0":
            yield f"{block.name} runs on {block.values.get('runtime')}, not on cloudfront-js-2.0"
    for block in module.resources("aws_cloudfront_cache_policy"):
        (key,) = block.values["parameters_in_cache_key_and_forwarded_to_origin"]
        for part, choice in (
            ("cookies_config", "cookie_behavior"),
            ("headers_config", "header_behavior"),
            ("query_strings_config", "query_string_behavior"),
        ):
            if key[part][0][choice] != "none":
                yield f"{block.name} hands {part.split('_')[0]} on to the bucket"


def cached_as_told(module: Module) -> Iterator[str]:
    """24 hours by default and 7 days at most, raw photos for minutes, errors for a second."""
    times = {
        block.name: (block.values.get("default_ttl"), block.values.get("max_ttl"))
        for block in module.resources("aws_cloudfront_cache_policy")
    }
    if times.get("public_photos") != (86400, 604800):
        yield f"public photos are kept {times.get('public_photos')} seconds, not (86400, 604800)"
    if times.get("raw_photos") != (300, 300):
        yield f"raw photos are kept {times.get('raw_photos')} seconds, not (300, 300)"
    wanted = {"default": "public_photos", INCOMING: "raw_photos"}
    for name, behaviour in _behaviours(module):
        if behaviour.get("cache_policy_id") != f"${{aws_cloudfront_cache_policy.{wanted.get(name)}.id}}":
            yield f"{name} has another cache policy than {wanted.get(name)}"
        if both := LEGACY_TIMES & behaviour.keys():
            yield f"{name} has a cache policy and {sorted(both)}, which exclude each other"
    errors = {
        it["error_code"]: it.get("error_caching_min_ttl", 10)
        for it in _distribution(module).get("custom_error_response", [])
    }
    for code in (403, 404):
        if errors.get(code, 10) > 1:
            yield f"{code} is kept for {errors.get(code, 10)} seconds: a new photo may seem missing"


def delivered_as_told(module: Module) -> Iterator[str]:
    """IPv6, TLS 1.2 by our own name, HTTPS only, the price class, the security headers."""
    distribution = _distribution(module)
    if distribution.get("is_ipv6_enabled") is not True:
        yield "IPv6 is off"
    if distribution.get("price_class") != "PriceClass_200":
        yield f"the price class is {distribution.get('price_class')}"
    (certificate,) = distribution.get("viewer_certificate") or [{}]
    if certificate.get("minimum_protocol_version") != "TLSv1.2_2021":
        yield f"TLS from {certificate.get('minimum_protocol_version')} on"
    for name, behaviour in _behaviours(module):
        if behaviour.get("viewer_protocol_policy") != "redirect-to-https":
            yield f"{name} does not lead to HTTPS"
        if "aws_cloudfront_response_headers_policy." not in behaviour.get("response_headers_policy_id", ""):
            yield f"{name} has no response headers policy"
    if module.variables.get("image_url_public_key", {}).get("default", "") is not None:
        yield "signed URLs are on by default, and growbin does not sign"
    headers = module.the("aws_cloudfront_response_headers_policy").get("security_headers_config") or [{}]
    for header in ("content_type_options", "content_security_policy"):
        if header not in headers[0]:
            yield f"{header} is not sent"
    records = [block.values for block in module.resources("aws_route53_record") if "alias" in block.values]
    if [record.get("for_each") for record in records] != ["${toset(['A', 'AAAA'])}"]:
        yield "the name does not lead to the CDN by A and AAAA"


def placed_in_us_east_1(module: Module) -> Iterator[str]:
    """CloudFront takes certificates from there, and gives its metrics there."""
    regions = {provider.get("alias"): provider.get("region") for provider in module.providers}
    if regions.get("us_east_1") != "us-east-1":
        yield f"the provider us_east_1 is {regions.get('us_east_1')}"
    there = (
        "aws_acm_certificate",
        "aws_acm_certificate_validation",
        "aws_cloudwatch_metric_alarm",
        "aws_sns_topic",
    )
    for type_ in there:
        for block in module.resources(type_):
            if block.values.get("provider") != IN_US_EAST_1:
                yield f"{block.address} is not in us-east-1"
    for provider in module.providers:
        if "${local.tags}" not in json.dumps(provider.get("default_tags", "")):
            yield f"the provider {provider.get('alias', 'aws')} sets no default tags"


def alarms_are_heard(module: Module) -> Iterator[str]:
    """Hit ratio, 4xx, 5xx and cost are watched, and somebody is told."""
    watched = set()
    for name, alarm in module.instances("aws_cloudwatch_metric_alarm").items():
        watched |= set(re.findall(r"'metric_name': '(\w+)'", str(alarm)))
        if not alarm.get("alarm_actions"):
            yield f"{name} tells nobody"
    for metric in sorted({"CacheHitRate", "4xxErrorRate", "5xxErrorRate"} - watched):
        yield f"{metric} is not watched"
    if "CacheHitRate" in watched and not module.resources("aws_cloudfront_monitoring_subscription"):
        yield "CacheHitRate needs the subscription to the additional metrics"
    told = {
        notification.get("notification_type")
        for notification in module.the("aws_budgets_budget").get("notification", [])
        if notification.get("subscriber_email_addresses") == ["${var.alarm_email}"]
    }
    for kind in sorted({"ACTUAL", "FORECASTED"} - told):
        yield f"nobody is told of costs that are {kind}"


# 10,000 photos a month: an hour of the day has twenty, a whole day 330. Each is read once by the consumer and
# looked at once.
PHOTOS_IN_SECONDS = {3600: 20, 86400: 330}


@dataclass(frozen=True)
class Traffic:
    """Shares of all answers, and which alarms they should raise."""

    name: str
    raised: frozenset[str]
    display_hits: float = 0.8
    client_errors: float = 0.01
    server_errors: float = 0.0

    def value(self, metric: Values, photos: int) -> float:
        """What CloudWatch would have for one period of the metric."""
        requests = 2 * photos
        return {
            "Requests": requests,
            "FunctionInvocations": photos,
            "CacheHitRate": 100 * self.display_hits * photos / requests,
            "4xxErrorRate": 100 * self.client_errors,
            "5xxErrorRate": 100 * self.server_errors,
        }.get(str(metric["metric_name"]), 0.0)


TRAFFIC = (
    Traffic("nothing wrong", frozenset()),
    Traffic("one photo missing and one failing in an hour", frozenset(), 0.8, 1 / 40, 1 / 40),
    Traffic("each photo looked at from another place", frozenset({"hit_ratio"}), display_hits=0.4),
    Traffic("a wrong reader's secret", frozenset({"errors[4xx]"}), client_errors=0.5),
    Traffic("S3 away", frozenset({"errors[5xx]"}), server_errors=0.6),
    Traffic("every tenth answer fails", frozenset({"errors[5xx]"}), server_errors=0.1),
)


def alarms_work_with_few_photos(module: Module) -> Iterator[str]:
    """At 10,000 photos a month each trouble raises its alarm, and no other one."""
    for traffic in TRAFFIC:
        alarms = module.instances("aws_cloudwatch_metric_alarm")
        raised = {name for name, alarm in alarms.items() if _rings(alarm, traffic)}
        if raised != traffic.raised:
            yield f"{traffic.name}: raises {sorted(raised)}, not {sorted(traffic.raised)}"


def _rings(alarm: Values, traffic: Traffic) -> bool:
    queries = alarm.get("metric_query", [])
    known: dict[str, Any] = {"IF": lambda condition, then, otherwise: then if condition else otherwise}
    for query in queries:
        for metric in query.get("metric", []):
            known[query["id"]] = traffic.value(metric, PHOTOS_IN_SECONDS[metric["period"]])
    [expression] = [query["expression"] for query in queries if query.get("return_data") is True]
    found = eval(expression, {"__builtins__": {}}, known)  # noqa: S307  # our own file's, in a test
    threshold = float(alarm["threshold"])
    if alarm["comparison_operator"] == "LessThanThreshold":
        return bool(found < threshold)
    return bool(found > threshold)


def roles_are_worn_by_pods(module: Module) -> Iterator[str]:
    """With Pod Identity: by the service account of the cluster that is named, and no other."""
    for statement in module.document("worn_by_pod") or [{}]:
        held = {it["variable"] for it in statement.get("condition", []) if it["test"] == "StringEquals"}
        tags = ("eks-cluster-name", "kubernetes-namespace", "kubernetes-service-account")
        if held != {f"aws:RequestTag/{tag}" for tag in tags}:
            yield "a role may be worn by other pods than its own"
    association = module.the("aws_eks_pod_identity_association")
    if association.get("service_account") != "${each.value}":
        yield "no role is associated with its service account"


def roles_have_what_they_need(module: Module) -> Iterator[str]:
    """No wildcard; each process may do what it does, where it does it."""
    for block in module.blocks:
        if block.type == "aws_iam_policy_document":
            for statement in block.values.get("statement", []):
                if statement.get("effect", "Allow") == "Allow" and "*" in json.dumps(
                    statement.get("actions", "*")
                ):
                    yield f"{block.address} allows {statement.get('actions', 'everything')}"
    raw, public = "${local.raw_photos}", "${local.public_photos}"
    whole, cdn = "${aws_s3_bucket.photos.arn}", "${aws_cloudfront_distribution.photos.arn}"
    wanted = {
        "gateway": {
            "s3:PutObject": [raw],
            "s3:GetObject": [raw],
            "s3:DeleteObject": "${concat(['${local.raw_photos}'],local.public_photos)}",
            "cloudfront:CreateInvalidation": [cdn],
            "s3:ListBucket": [whole],
        },
        "consumer": {
            "s3:GetObject": [raw],
            "s3:PutObject": public,
            "s3:DeleteObject": public,
            "s3:ListBucket": [whole],
        },
    }
    for process, rights in wanted.items():
        given = {
            action: statement.get("resources")
            for statement in module.document(process)
            for action in statement.get("actions", [])
        }
        for action in sorted(given.keys() | rights.keys()):
            if given.get(action) != rights.get(action):
                yield f"{process} has {action} on {given.get(action)}, not on {rights.get(action)}"


def roles_reach_no_further(module: Module) -> Iterator[str]:
    """The words for places mean what they say, and only its own service account wears a role."""
    job_id = "00000000-0000-4000-8000-000000000000"
    pattern = re.sub(r'.*arn}/([^"]*)".*', r"\1", str(module.local_values.get("public_photos")))
    pattern = pattern.replace("${extension}", "jpg")
    if not fnmatchcase(f"{job_id}.jpg", pattern) or fnmatchcase(f"incoming/{job_id}.jpg", pattern):
        yield f"public photos are {pattern}, which is not exactly the clean copies"
    if module.local_values.get("raw_photos") != "${aws_s3_bucket.photos.arn}/incoming/*":
        yield f"raw photos are {module.local_values.get('raw_photos')}"
    for statement in module.document("worn_by") or [{}]:
        held = {
            it["variable"].rpartition(":")[2]
            for it in statement.get("condition", [])
            if it["test"] == "StringEquals"
        }
        if held != {"sub", "aud"}:
            yield "a role may be worn by other service accounts than its own"


def outputs_fit_growbin(module: Module) -> Iterator[str]:
    """What others read is there, and each key of `settings` is a setting of growbin."""
    for name in (
        "cloudfront_distribution_id",
        "cloudfront_domain_name",
        "cdn_images_url",
        "role_arns",
        "bucket_name",
    ):
        if name not in module.outputs:
            yield f"output {name} is missing"
    tree = ast.parse((SOURCE / "config.py").read_text())
    known = {
        node.target.id.upper()
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    settings = module.outputs.get("settings", {}).get("value", {})
    if not settings:
        yield "output settings is missing"
    yield from (
        f"output settings: {name} is no setting of growbin" for name in sorted(settings.keys() - known)
    )


def _distribution(module: Module) -> Values:
    return module.the("aws_cloudfront_distribution")


def _behaviours(module: Module) -> list[tuple[str, Values]]:
    distribution = _distribution(module)
    named = [("default", it) for it in distribution.get("default_cache_behavior", [])]
    return named + [
        (str(it.get("path_pattern")), it) for it in distribution.get("ordered_cache_behavior", [])
    ]


RULES: tuple[Callable[[Module], Iterator[str]], ...] = (
    arguments,
    references,
    bucket_is_private,
    photos_expire,
    cors_is_narrow,
    cdn_only_reads,
    origin_is_signed_for,
    incoming_is_guarded,
    cached_as_told,
    delivered_as_told,
    placed_in_us_east_1,
    alarms_are_heard,
    alarms_work_with_few_photos,
    roles_have_what_they_need,
    roles_reach_no_further,
    roles_are_worn_by_pods,
    outputs_fit_growbin,
)


def findings(folder: Path) -> list[str]:
    module = read(folder)
    return [f"{rule.__name__}: {finding}" for rule in RULES for finding in rule(module)]


if __name__ == "__main__":
    json.dump({folder: findings(Path(folder)) for folder in sys.argv[1:]}, sys.stdout)
