"""deploy/terraform, as far as it can be known without an account."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.terraform_tools import (
    ROOT,
    TERRAFORM,
    deploy_python,
    findings,
    planted,
    program,
    readme_values,
    scan,
    terraform,
)

# Each mistake: where, what is right, what is wrong, and what must be said of it.
MISTAKES = {
    "unknown argument": ("cdn.tf", "price_class     =", "price_klass     =", "unknown argument price_klass"),
    "unknown nested argument": ("bucket.tf", "sse_algorithm =", "algorithm =", "unknown argument algorithm"),
    "missing argument": ("alarms.tf", '  protocol  = "email"\n', "", "protocol is missing"),
    "missing nested argument": (
        "cdn.tf",
        '    origin_id                = "bucket"\n',
        "",
        "origin_id is missing",
    ),
    "argument given twice": (
        "cdn.tf",
        "  enabled         = true\n",
        "  enabled         = true\n  enabled         = false\n",
        "enabled is given twice",
    ),
    "unknown type": (
        "bucket.tf",
        '"aws_s3_bucket_policy"',
        '"aws_s3_policy"',
        "the provider has no such type",
    ),
    "block as a value": ("cdn.tf", "  restrictions {", "  restrictions = {", "restrictions is a block"),
    "unknown name": (
        "cdn.tf",
        "aws_acm_certificate_validation.cdn.",
        "aws_acm_certificate_validation.cdm.",
        "is not declared",
    ),
    "unknown attribute": ("outputs.tf", "photos.domain_name", "photos.domain", "has no attribute domain"),
    "unread variable": (
        "bucket.tf",
        "bucket = var.bucket_name",
        'bucket = "growbin"',
        "var.bucket_name is never read",
    ),
    "unknown alias": (
        "versions.tf",
        '  alias  = "us_east_1"',
        '  alias  = "virginia"',
        "provider aws.us_east_1 is not declared",
    ),
    "public policy": (
        "bucket.tf",
        "block_public_policy     = true",
        "block_public_policy     = false",
        "block_public_policy is not true",
    ),
    "no public access block": (
        "bucket.tf",
        "  restrict_public_buckets = true\n",
        "",
        "restrict_public_buckets is not true",
    ),
    "not encrypted": (
        "bucket.tf",
        '"aws_s3_bucket_server_side_encryption_configuration"',
        '"aws_s3_bucket_versioning"',
        "the bucket is not encrypted",
    ),
    "raw photos for a week": ("bucket.tf", "days = 1\n", "days = 7\n", "photos_expire"),
    "photos for ever": (
        "bucket.tf",
        '    id     = "photos"\n    status = "Enabled"',
        '    id     = "photos"\n    status = "Disabled"',
        "photos_expire",
    ),
    "cors for all": (
        "bucket.tf",
        "allowed_origins = var.allowed_origins",
        'allowed_origins = ["*"]',
        "cors_is_narrow",
    ),
    "cors with delete": ("bucket.tf", '["PUT"]', '["PUT", "DELETE"]', "cors_is_narrow"),
    "cors with any header": (
        "bucket.tf",
        '["Content-Type", "If-None-Match"]',
        '["*"]',
        "any header is allowed",
    ),
    "cdn writes": ("bucket.tf", '["s3:GetObject"]', '["s3:GetObject", "s3:PutObject"]', "cdn_only_reads"),
    "any distribution reads": (
        "bucket.tf",
        "[aws_cloudfront_distribution.photos.arn]",
        '["*"]',
        "cdn_only_reads",
    ),
    "writing methods": (
        "cdn.tf",
        """"incoming/*"
    target_origin_id           = "bucket"
    allowed_methods            = ["GET", "HEAD"]""",
        """"incoming/*"
    target_origin_id           = "bucket"
    allowed_methods            = ["GET", "HEAD", "PUT"]""",
        "cdn_only_reads",
    ),
    "identity instead of control": (
        "cdn.tf",
        "    origin_access_control_id = aws_cloudfront_origin_access_control.photos.id\n",
        '    s3_origin_config {\n      origin_access_identity = ""\n    }\n',
        "origin_is_signed_for",
    ),
    "unsigned": ("cdn.tf", '= "always"', '= "never"', "origin_is_signed_for"),
    "incoming unguarded": (
        "cdn.tf",
        "aws_cloudfront_function.incoming_photo.arn",
        "aws_cloudfront_function.public_photo.arn",
        "incoming_is_guarded",
    ),
    "display unguarded": (
        "cdn.tf",
        """    trusted_key_groups         = aws_cloudfront_key_group.image_url[*].id

    function_association {
      event_type   = "viewer-request"
      function_arn = aws_cloudfront_function.public_photo.arn
    }
""",
        "",
        "incoming_is_guarded",
    ),
    "guarded after the answer": (
        "cdn.tf",
        """"viewer-request"
      function_arn = aws_cloudfront_function.incoming_photo.arn""",
        """"viewer-response"
      function_arn = aws_cloudfront_function.incoming_photo.arn""",
        "incoming_is_guarded",
    ),
    "another prefix": ("cdn.tf", '"incoming/*"', '"uploads/*"', "incoming_is_guarded"),
    "old runtime": (
        "cdn.tf",
        """"cloudfront-js-2.0"
  code    =""",
        """"cloudfront-js-1.0"
  code    =""",
        "incoming_is_guarded",
    ),
    "cookies handed on": (
        "cdn.tf",
        """max_ttl     = 300

  parameters_in_cache_key_and_forwarded_to_origin {
    cookies_config {
      cookie_behavior = "none\"""",
        """max_ttl     = 300

  parameters_in_cache_key_and_forwarded_to_origin {
    cookies_config {
      cookie_behavior = "all\"""",
        "raw_photos hands cookies on",
    ),
    "raw photos cached as public": (
        "cdn.tf",
        "aws_cloudfront_cache_policy.raw_photos.id",
        "aws_cloudfront_cache_policy.public_photos.id",
        "incoming/* has another cache policy",
    ),
    "legacy times": (
        "cdn.tf",
        "    trusted_key_groups  ",
        "    min_ttl             = 0\n    trusted_key_groups  ",
        "exclude each other",
    ),
    "wrong times": ("cdn.tf", "max_ttl     = 604800", "max_ttl     = 2592000", "public photos are kept"),
    "raw photos cached": ("cdn.tf", "max_ttl     = 300", "max_ttl     = 86400", "raw photos are kept"),
    "errors cached": (
        "cdn.tf",
        """= 403
    error_caching_min_ttl = 1""",
        """= 403
    error_caching_min_ttl = 10""",
        "403 is kept for 10 seconds",
    ),
    "old tls": ("cdn.tf", "TLSv1.2_2021", "TLSv1.1_2016", "TLS from TLSv1.1_2016"),
    "clear text": (
        "cdn.tf",
        """"redirect-to-https"
    cache_policy_id            = aws_cloudfront_cache_policy.raw_photos.id""",
        """"allow-all"
    cache_policy_id            = aws_cloudfront_cache_policy.raw_photos.id""",
        "incoming/* does not lead to HTTPS",
    ),
    "all edges": ("cdn.tf", "PriceClass_200", "PriceClass_All", "the price class is PriceClass_All"),
    "no ipv6": ("cdn.tf", "is_ipv6_enabled = true", "is_ipv6_enabled = false", "IPv6 is off"),
    "no aaaa": ("certificate.tf", '["A", "AAAA"]', '["A"]', "by A and AAAA"),
    "no sniffing header": (
        "cdn.tf",
        "    content_type_options {\n      override = true\n    }\n",
        "",
        "content_type_options is not sent",
    ),
    "signed urls by default": (
        "variables.tf",
        'leave it null (README)."\n  type        = string\n  default     = null\n',
        'leave it null (README)."\n  type        = string\n  default     = "a key"\n',
        "signed URLs are on by default",
    ),
    "certificate in another region": (
        "certificate.tf",
        """"aws_acm_certificate" "cdn" {
  provider          = aws.us_east_1
""",
        """"aws_acm_certificate" "cdn" {
""",
        "aws_acm_certificate.cdn is not in us-east-1",
    ),
    "alarm in another region": (
        "alarms.tf",
        '  provider            = aws.us_east_1\n  alarm_name          = "${var.name}-cdn-${each.key}"',
        '  alarm_name          = "${var.name}-cdn-${each.key}"',
        "errors is not in us-east-1",
    ),
    "alarm unheard": (
        "alarms.tf",
        """Fewer than 70 % of the public photos came from the edge in a day."
  comparison_operator = "LessThanThreshold"
  threshold           = 70
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
""",
        """Fewer than 70 % of the public photos came from the edge in a day."
  comparison_operator = "LessThanThreshold"
  threshold           = 70
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
""",
        "hit_ratio tells nobody",
    ),
    "costs unheard": (
        "alarms.tf",
        """"ACTUAL"
    comparison_operator        = "GREATER_THAN"
    threshold                  = 80
    threshold_type             = "PERCENTAGE"
    subscriber_email_addresses = [var.alarm_email]
""",
        """"ACTUAL"
    comparison_operator        = "GREATER_THAN"
    threshold                  = 80
    threshold_type             = "PERCENTAGE"
""",
        "nobody is told of costs that are ACTUAL",
    ),
    "alarm for many photos only": (
        "alarms.tf",
        "display_reads >= 100",
        "display_reads >= 1000",
        "each photo looked at from another place: raises [], not ['hit_ratio']",
    ),
    "alarm for one error": (
        "alarms.tf",
        "percent = 1, at_least = 3",
        "percent = 1, at_least = 1",
        "one photo missing and one failing in an hour: raises ['errors[5xx]'], not []",
    ),
    "alarm by raw photos": (
        "alarms.tf",
        "hit_rate * requests / display_reads",
        "hit_rate",
        "nothing wrong: raises ['hit_ratio'], not []",
    ),
    "alarm for nobody's secret": (
        "alarms.tf",
        "percent = 20",
        "percent = 60",
        "a wrong reader's secret: raises [], not ['errors[4xx]']",
    ),
    "any pod of the cluster": (
        "roles.tf",
        """      variable = "aws:RequestTag/kubernetes-service-account\"""",
        """      variable = "aws:RequestTag/kubernetes-pod-name\"""",
        "a role may be worn by other pods than its own",
    ),
    "role for another account": (
        "roles.tf",
        "  service_account = each.value\n",
        "  service_account = each.key\n",
        "no role is associated with its service account",
    ),
    "unwatched errors": ("alarms.tf", '"4xx" =', '"Total" =', "4xxErrorRate is not watched"),
    "no additional metrics": (
        "alarms.tf",
        '"aws_cloudfront_monitoring_subscription"',
        '"aws_cloudfront_realtime_log_config"',
        "needs the subscription",
    ),
    "wildcard action": ("roles.tf", '["s3:DeleteObject"]', '["s3:*"]', "allows ['s3:*']"),
    "consumer deletes uploads": (
        "roles.tf",
        """"s3:DeleteObject"]
    resources = local.public_photos""",
        """"s3:DeleteObject"]
    resources = [local.raw_photos]""",
        "consumer has s3:DeleteObject",
    ),
    "gateway without invalidation": (
        "roles.tf",
        '"cloudfront:CreateInvalidation"',
        '"cloudfront:GetInvalidation"',
        "gateway has cloudfront:",
    ),
    "raw means all": ("roles.tf", "/incoming/*", "/*", "raw photos are"),
    "public means all": (
        "roles.tf",
        "????????-????-????-????-????????????",
        "*",
        "not exactly the clean copies",
    ),
    "any service account": ("roles.tf", ":sub", ":amr", "a role may be worn by other service accounts"),
    "unknown setting": (
        "outputs.tf",
        "CDN_BASE_URL               =",
        "CDN_URL                    =",
        "CDN_URL is no setting",
    ),
    "output renamed": (
        "outputs.tf",
        'output "cdn_images_url"',
        'output "cdn_url"',
        "output cdn_images_url is missing",
    ),
    "no tags": (
        "versions.tf",
        """  region = "us-east-1"

  default_tags {
    tags = local.tags
  }
""",
        """  region = "us-east-1"
""",
        "us_east_1 sets no default tags",
    ),
}

ADAPTERS = ROOT / "src" / "growbin" / "adapters" / "photos"
GOOD_DIGEST = "0123456789abcdef" * 4
EMPTY_DIGEST = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Findings about the tree as it is, and about a copy for each mistake: the schema is read once."""
    folder = tmp_path_factory.mktemp("planted")
    copies = {name: planted(folder / name, *mistake[:3]) for name, mistake in MISTAKES.items()}
    about = findings(TERRAFORM, *copies.values())
    return {name: about[str(path)] for name, path in {"as it is": TERRAFORM, **copies}.items()}


def test_nothing_is_wrong_as_it_is(found: dict[str, list[str]]) -> None:
    """Every argument is one that the provider takes, every name leads somewhere, every promise is kept."""
    assert not found["as it is"]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named(found: dict[str, list[str]], name: str) -> None:
    """The check that stands for it goes red, and says what is wrong."""
    assert [finding for finding in found[name] if MISTAKES[name][3] in finding], found[name]


# Requests to S3, which are signed without its client.
REQUESTS = {"self._requests.presigned", "self._requests.answered", "self._done"}
OBJECT_PERMISSIONS = {"GET": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}


def calls(adapters: Path) -> set[str]:
    """The permissions behind the AWS calls of the adapters, and the one that lists, and tells a missing photo
    apart."""
    found = {"s3:ListBucket"}
    for name in ("upload_store.py", "photo_cache.py"):
        for node in ast.walk(ast.parse((adapters / name).read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if ast.unparse(node.func) in REQUESTS and isinstance(node.args[0], ast.Constant):
                found.add(OBJECT_PERMISSIONS[ast.literal_eval(node.args[0])])
            if ast.unparse(node.func.value) == "self._cloudfront":
                found.add(f"cloudfront:{node.func.attr.title().replace('_', '')}")
    return found


def granted() -> set[str]:
    return set(re.findall(r'"((?:s3|cloudfront):\w+)"', (TERRAFORM / "roles.tf").read_text()))


def test_the_roles_hold_the_calls_of_the_adapters() -> None:
    """A new call needs a decision: which process may make it, and where."""
    assert calls(ADAPTERS) == granted()


def test_a_new_call_of_an_adapter_is_caught(tmp_path: Path) -> None:
    """To make a distribution would need a right that no role has."""
    copied = planted(
        tmp_path / "copy", "photo_cache.py", ".create_invalidation(", ".create_distribution(", of=ADAPTERS
    )
    assert "cloudfront:CreateDistribution" in calls(copied) - granted()


def test_files_are_formatted() -> None:
    """As `terraform fmt` would write them, which also means that they parse."""
    done = terraform("fmt", "-check", "-diff", "-recursive", ".", folder=TERRAFORM)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unformatted_file_is_caught(tmp_path: Path) -> None:
    """One space too many is enough."""
    folder = planted(tmp_path / "copy", "outputs.tf", 'output "settings" {', 'output  "settings" {')
    assert terraform("fmt", "-check", "-recursive", ".", folder=folder).returncode != 0


def test_the_scanner_finds_nothing_and_each_suppression_has_a_reason() -> None:
    """What checkov would have otherwise, and we do not want, says why beside the resource."""
    results = scan(TERRAFORM)
    assert not [f"{it['check_id']} {it['resource']}: {it['check_name']}" for it in results["failed_checks"]]
    assert not results["parsing_errors"]
    assert len(results["passed_checks"]) > 50
    for skipped in results["skipped_checks"]:
        assert len(skipped["check_result"]["suppress_comment"].split()) >= 5, skipped["check_id"]


def test_the_scanner_sees_an_open_bucket(tmp_path: Path) -> None:
    """It is really looking: a bucket that may become public is a failed check."""
    folder = planted(
        tmp_path / "copy", "bucket.tf", "block_public_acls       = true", "block_public_acls       = false"
    )
    assert "CKV_AWS_53" in [it["check_id"] for it in scan(folder)["failed_checks"]]


def plan(folder: Path, **changes: Any) -> str:
    """Give the README's values, some of them changed, to Terraform; what it says against them."""
    folder.mkdir()
    (folder / "variables.tf").write_text((TERRAFORM / "variables.tf").read_text())
    (folder / "terraform.tfvars").write_text(readme_values())
    (folder / "z.auto.tfvars.json").write_text(json.dumps(changes))
    done = terraform("plan", "-input=false", "-no-color", folder=folder)
    return "" if done.returncode == 0 else done.stderr


def test_the_readme_values_are_accepted(tmp_path: Path) -> None:
    """The example names every variable that has no default, and its values pass all validations."""
    assert plan(tmp_path / "plan") == ""


def test_pod_identity_is_accepted_instead_of_the_provider(tmp_path: Path) -> None:
    """One of the two ways to wear a role, and not both."""
    assert plan(tmp_path / "pods", oidc_provider_arn=None, eks_cluster_name="example") == ""
    assert "must be given, and not both" in plan(tmp_path / "both", eks_cluster_name="example")


def dashboard(folder: Path) -> dict[str, Any]:
    """The dashboard as Terraform itself writes it, with a text for everything that an account would name."""
    folder.mkdir()
    text = (TERRAFORM / "dashboard.tf").read_text()
    body = text.replace('resource "aws_cloudwatch_dashboard" "photos" {', "locals {")
    body = re.sub(r"aws_\w+\.(\w+)\.(?:id|name|bucket)\b", r'"\1"', re.sub(r"  provider .*\n", "", body))
    (folder / "dashboard.tf").write_text(body.replace("var.aws_region", '"here"').replace("${var.name}", "x"))
    done = terraform("console", folder=folder, text="local.dashboard_body")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(json.loads(done.stdout)))


def test_dashboard_shows_what_the_migration_asked_for(tmp_path: Path) -> None:
    """Requests, bytes, errors by the hour, and the hit ratio of a day, side by side and in their region."""
    widgets = dashboard(tmp_path / "body")["widgets"]
    shown = {
        (str(it), widget["properties"]["period"], widget["properties"]["region"])
        for widget in widgets
        for line in widget["properties"]["metrics"]
        for it in line[:2]
    }
    for metric in ("Requests", "BytesDownloaded", "4xxErrorRate", "5xxErrorRate"):
        assert (metric, 3600, "us-east-1") in shown
    assert ("CacheHitRate", 86400, "us-east-1") in shown
    assert ("BucketSizeBytes", 86400, "here") in shown
    places = [(widget["x"], widget["y"]) for widget in widgets]
    assert len(set(places)) == len(widgets)


@pytest.mark.parametrize(
    "changes",
    [
        {"allowed_origins": ["*"]},
        {"allowed_origins": ["https://*.growbin.example"]},
        {"allowed_origins": ["http://growbin.example"]},
        {"allowed_origins": ["https://growbin.example/"]},
        {"allowed_origins": []},
        {"cdn_reader_secret_sha256": []},
        {"cdn_reader_secret_sha256": ["the secret itself"]},
        {"cdn_reader_secret_sha256": [EMPTY_DIGEST]},
        {"cdn_reader_secret_sha256": [GOOD_DIGEST] * 3},
        {"oidc_provider_arn": "https://oidc.eks.ap-northeast-2.amazonaws.com/id/1"},
        {"oidc_provider_arn": None},
        {"name": "Growbin"},
    ],
    ids=str,
)
def test_a_bad_value_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Terraform stops before it changes anything, and names the variable."""
    (variable,) = changes
    assert re.search(
        rf"Invalid value for variable.*{variable}", plan(tmp_path / "plan", **changes), re.DOTALL
    )


def test_a_missing_terraform_fails_with_one_sentence(tmp_path: Path) -> None:
    """It is told what to install, not skipped."""
    with pytest.raises(pytest.fail.Exception) as failure:
        program("terraform", "install Terraform 1.10 or newer", path=str(tmp_path))
    wanted = (
        "terraform is not on the PATH: install Terraform 1.10 or newer, then run make deploy-check again."
    )
    assert str(failure.value) == wanted


def test_a_missing_interpreter_fails_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the environment of the checks nothing is silently left out."""
    monkeypatch.setenv("DEPLOY_PYTHON", str(tmp_path / "python"))
    with pytest.raises(pytest.fail.Exception, match="make deploy-check, which makes it"):
        deploy_python("--version")
