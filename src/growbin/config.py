"""Every setting, with its default. A bad value stops the start with one sentence that names it."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from growbin.budgets import Limit, parse_limits
from growbin.capabilities import CallWishes, CapParameter, Effort, ImageDetail, ResponseFormat

OUR_PREFIX = "GROWBIN_"
LEAST_LIKE_LETTERS = 8  # shorter names are alike by chance
ALIKE = 0.87


class BadSetting(Exception):
    """A setting cannot be used; the text names the variable and says what would be right."""


def _with_database(url: str, database: int) -> str:
    parts = urlsplit(url)
    service = parts.path.rstrip("/") if "+" in parts.scheme else ""  # what the sentinels watch
    return urlunsplit((parts.scheme, parts.netloc, f"{service}/{database}", parts.query, ""))


def _listed(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


class Settings(BaseSettings):
    """Read once from the environment; frozen. Each field's name in capitals is its variable."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    # --- where the gateway listens
    host: str = Field("127.0.0.1", description="address the gateway listens on")
    port: int = Field(8080, ge=0, le=65535, description="port of the gateway's API and page")
    probe_host: str = Field("127.0.0.1", description="address of /healthz, /readyz and /metrics")
    probe_port: int = Field(8081, ge=0, le=65535, description="port of /healthz, /readyz and /metrics")
    allowed_origins: str = Field("", description="comma-separated origins that may call from a browser")
    trusted_proxies: str = Field(
        "", description="comma-separated networks whose X-Forwarded-For, -Host and -Proto are believed"
    )
    secure_cookies: bool = Field(False, description="mark the session cookie Secure (TLS in front)")

    # --- S3 and CDN
    aws_region: str = Field("ap-northeast-2", description="region of the bucket")
    s3_bucket_name: str = Field("growbin-photos", description="the private bucket")
    s3_endpoint_url: str | None = Field(None, description="S3-compatible endpoint; AWS when unset")
    cdn_enabled: bool = Field(True, description="read photos through the CDN before S3")
    cdn_base_url: str = Field("http://127.0.0.1:8088", description="base address of the CDN")
    cdn_cache_ttl: int = Field(86_400, ge=0, le=604_800, description="seconds a public photo may be cached")
    cdn_reader_secret: SecretStr = Field(
        SecretStr(""), description="header value that opens incoming/ to the consumer"
    )

    cloudfront_distribution_id: str = Field(
        "", description="CloudFront distribution that is told of deleted photos; unset: another CDN"
    )

    # --- RabbitMQ
    rabbitmq_url: str = Field(
        "amqp://guest:guest@127.0.0.1:5672/",
        description="broker; several comma-separated nodes are tried in turn",
    )
    rabbitmq_management_url: str | None = Field(
        None, description="management API with credentials, for the backlog; unset: not limited"
    )
    queue_name: str = Field("growbin.jobs", pattern=r"^[A-Za-z0-9._-]{1,100}$", description="main queue")
    publish_timeout_seconds: float = Field(1.3, gt=0, description="longest wait for a publisher confirm")

    # --- Redis
    redis_url: str = Field("redis://127.0.0.1:6379", description="server of all roles without their own URL")
    redis_jobs_url: str = Field("", description="job records; default: REDIS_URL, DB 0")
    redis_progress_url: str = Field("", description="progress and results; default: REDIS_URL, DB 2")
    redis_sessions_url: str = Field("", description="sessions; default: REDIS_URL, DB 3")

    # --- model
    openai_api_key: SecretStr = Field(SecretStr(""), description="key of the model server")
    openai_base_url: str | None = Field(None, description="any OpenAI-compatible server; OpenAI when unset")
    openai_model: str = Field("gpt-6-luna", description="model that sees the photo")
    openai_reasoning_effort: Effort | None = Field(
        None, description="how long the model thinks, `none` to `max`; unset: the least it allows"
    )
    openai_token_parameter: CapParameter | None = Field(
        None, description="`max_completion_tokens` or `max_tokens`; unset: as the model wants it"
    )
    openai_max_tokens: int | None = Field(
        None, ge=100, description="cap of one answer, thinking included; unset: 1500, and 25000 to think"
    )
    openai_response_format: ResponseFormat | None = Field(
        None, description="`json_schema`, `json_object` or `none`; unset: the strictest that is taken"
    )
    openai_image_detail: ImageDetail | None = Field(
        None, description="`low`, `high`, `auto`, or `none` to leave it out; unset: low"
    )
    prices_file: Path | None = Field(
        None, description="an operator's table of prices, in the shape of data/prices.json; unset: ours"
    )
    share_answers: bool = Field(
        True, description="a session's same photo and question are paid for once in seven days"
    )
    fallback_model: Literal["embedded"] | None = Field(
        None,
        description="`embedded`: answers when a budget is spent or the model is away; unset: nobody does",
    )
    fallback_after_seconds: float = Field(
        30, ge=0, description="so long after upload-complete it answers for a model that is away"
    )
    budget: str = Field(
        "",
        description="of model calls in all, as in `20000 calls/day, $5/day, 600 calls/minute`; unset: none",
    )
    budget_per_session: str = Field("", description="the same for each session")
    budget_per_address: str = Field("", description="the same for each client address (an IPv6 /64)")
    budget_first_share: float = Field(
        0.2, ge=0, lt=1, description="of BUDGET kept for sessions' first photos of a day, three of an address"
    )
    model_timeout_seconds: float = Field(60, gt=0, description="longest model call")
    sure_threshold: float | None = Field(
        None, ge=0, le=1, description="confidence from which an answer is sure; unset: the model's own"
    )

    # --- limits
    photo_max_bytes: int = Field(10 * 1024 * 1024, gt=0, description="largest upload")
    photo_max_pixels: int = Field(
        200_000_000, gt=0, description="largest picture that is decoded; most types are bounded below it"
    )
    photo_children: int | None = Field(
        None, ge=1, description="processes that clean photos, 400 MB each; unset: one more than cores"
    )
    photo_model_side: int = Field(1024, ge=64, description="longest side given to the model")
    ticket_seconds: int = Field(300, gt=0, description="life of an upload URL")
    unused_ticket_seconds: int = Field(
        3600, gt=0, description="life of what is kept of a ticket without upload"
    )
    require_declared_length: bool = Field(
        False, description="refuse tickets without content_length: S3 would take an upload of any length"
    )
    erase_again_seconds: float = Field(
        30, gt=0, description="a deletion is done again after this, and once more after TICKET_SECONDS"
    )
    upload_wait_seconds: int = Field(600, gt=0, description="a job without upload expires after this")
    job_deadline_seconds: int = Field(300, gt=0, description="from upload-complete to the end at the latest")
    lease_seconds: float = Field(5, gt=0, description="life of a consumer's lease without renewal")
    lease_renew_seconds: float = Field(
        1, gt=0, description="between renewals; also how soon a cancel is seen"
    )
    max_starts: int = Field(4, ge=1, description="starts of one job")
    max_paid_calls: int = Field(3, ge=1, description="paid model calls of one job")
    consumer_concurrency: int = Field(32, ge=1, description="jobs at once in one consumer (= prefetch)")
    backlog_limit: int = Field(10_000, ge=1, description="waiting jobs above which uploads get 503")
    max_streams_per_session: int = Field(4, ge=1, description="open streams of one session")
    max_streams_per_address: int = Field(200, ge=1, description="open streams of one client address")
    max_streams: int = Field(12_000, ge=1, description="open streams of one gateway")
    head_max_bytes: int = Field(
        16 * 1024, ge=1024, description="longest head of a request, all fields together"
    )
    head_timeout_seconds: float = Field(10, gt=0, description="longest time a head may take to arrive")
    keepalive_seconds: float = Field(75, gt=0, description="an idle connection is closed after this")
    max_connections_per_address: int = Field(
        200,
        ge=1,
        description="open connections of one client address (IPv6: of one /64); trusted proxies: any",
    )
    max_connections: int = Field(16_000, ge=1, description="open connections of one gateway")
    new_session_seconds: int = Field(
        3600, gt=0, description="life of a session that has completed no upload; each call slides it"
    )
    session_tickets_per_minute: int = Field(30, ge=1, description="tickets of one session")
    address_tickets_per_minute: int = Field(120, ge=1, description="tickets of one client address")
    all_tickets_per_minute: int = Field(3000, ge=1, description="tickets of everybody")
    reads_per_second: int = Field(20, ge=1, description="reads of one session, and of one client address")
    changes_per_minute: int = Field(
        60, ge=1, description="deletions and cancellations of one session, and of one client address"
    )
    max_unfinished_per_session: int = Field(20, ge=1, description="unfinished jobs of one session")
    max_unfinished_per_address: int = Field(60, ge=1, description="unfinished jobs of one client address")
    stream_heartbeat_seconds: float = Field(15, gt=0, description="between stream comments")
    stream_write_timeout_seconds: float = Field(20, gt=0, description="a slower reader is cut")
    stream_buffer_events: int = Field(64, ge=1, description="events waiting for one reader")
    consumer_grace_seconds: float = Field(75, ge=0, description="time to finish jobs after SIGTERM")

    # --- rules
    rules_dir: Path | None = Field(
        None, description="folder with a municipality's overlay.json; unset: the national rules"
    )

    # --- logs and traces
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level logged")
    log_format: Literal["json", "console"] = Field(
        "json", description="json for machines, console for people"
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector of traces, OTLP over HTTP (growbin[tracing]); unset: none"
    )

    @field_validator(
        "cdn_base_url",
        "s3_endpoint_url",
        "openai_base_url",
        "rabbitmq_management_url",
        "otel_exporter_otlp_endpoint",
    )
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/") if value else value

    @field_validator("budget", "budget_per_session", "budget_per_address")
    @classmethod
    def _are_limits(cls, value: str) -> str:
        parse_limits("everybody", value)
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in _listed(value):
            parts = urlsplit(origin)
            is_whole = f"{parts.scheme}://{parts.netloc}" == origin
            if parts.scheme not in ("http", "https") or "*" in origin or not is_whole:
                raise ValueError(
                    f"{origin} is no origin like https://app.example: name each one, for every page that may "
                    "call acts with the session of the person who looks at it"
                )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in _listed(value):
            ipaddress.ip_network(network)
        return value

    @field_validator("redis_url", "redis_jobs_url", "redis_progress_url", "redis_sessions_url")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        if value and not re.match(r"rediss?://|rediss?\+sentinel://[^/]+/\w", value):
            raise ValueError("must be like redis://host, rediss://host or redis+sentinel://host,host/service")
        return value

    @field_validator("rabbitmq_url")
    @classmethod
    def _are_amqp_urls(cls, value: str) -> str:
        if any(urlsplit(url).scheme not in ("amqp", "amqps") for url in _listed(value)):
            raise ValueError("must start with amqp:// or amqps://")
        return value

    @model_validator(mode="before")
    @classmethod
    def _derive_role_urls(cls, values: dict[str, object]) -> dict[str, object]:
        server = str(values.get("redis_url") or "redis://127.0.0.1:6379")
        for role, database in (("jobs", 0), ("progress", 2), ("sessions", 3)):
            values[f"redis_{role}_url"] = values.get(f"redis_{role}_url") or _with_database(server, database)
        return values

    @model_validator(mode="after")
    def _lease_outlives_renewals(self) -> Self:
        if self.lease_renew_seconds * 2 > self.lease_seconds:
            raise ValueError("LEASE_RENEW_SECONDS must be at most half of LEASE_SECONDS")
        return self

    @model_validator(mode="after")
    def _record_outlives_upload(self) -> Self:
        if self.unused_ticket_seconds < self.upload_wait_seconds:
            raise ValueError("UNUSED_TICKET_SECONDS must be at least UPLOAD_WAIT_SECONDS")
        return self

    @property
    def call_wishes(self) -> CallWishes:
        """What is set of how the model is asked."""
        return CallWishes(
            effort=self.openai_reasoning_effort,
            cap_parameter=self.openai_token_parameter,
            most_tokens=self.openai_max_tokens,
            response_format=self.openai_response_format,
            detail=self.openai_image_detail,
        )

    @property
    def budget_limits(self) -> tuple[Limit, ...]:
        return (
            *parse_limits("everybody", self.budget),
            *parse_limits("session", self.budget_per_session),
            *parse_limits("address", self.budget_per_address),
        )

    @property
    def rabbitmq_urls(self) -> list[str]:
        return _listed(self.rabbitmq_url)

    @property
    def origins(self) -> frozenset[str]:
        return frozenset(_listed(self.allowed_origins))

    @property
    def proxies(self) -> list[str]:
        return _listed(self.trusted_proxies)


def near_misses() -> list[str]:
    """A sentence for each variable that is nearly a setting, and so nothing to anybody."""
    settings = {name.upper() for name in Settings.model_fields}
    told = []
    for name in sorted(set(os.environ) - settings):
        meant = next((known for known in settings if name == f"{OUR_PREFIX}{known}"), None)
        if meant is None and len(name) >= LEAST_LIKE_LETTERS:
            alike = get_close_matches(name, settings, n=1, cutoff=ALIKE)
            begun = [known for known in sorted(settings) if known.startswith(f"{name}_")]
            meant = next(iter(alike + begun), None)
        if meant:
            told.append(f"{name} is no setting; {meant} is")
    return told


def env_example() -> str:
    """`.env.example`: every setting with its default."""
    lines = ["# Every setting, with its default. What is empty is unset; docs/operations.md says more."]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        value = default.get_secret_value() if isinstance(default, SecretStr) else default
        told = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        lines += ["", f"# {field.description}", f"{name.upper()}={shlex.quote(told) if told else ''}"]
    return "\n".join(lines) + "\n"


STACK_FILE = Path("var/stack.env")
DEFAULT_SERVER = "http://127.0.0.1:8080"
# Where the environment names one of these otherwise, another growbin than the local stack's is meant.
_PLACES = ("RABBITMQ_URL", "REDIS_URL", "S3_ENDPOINT_URL", "S3_BUCKET_NAME", "CDN_BASE_URL")


def server_address() -> str:
    """Where a client finds the gateway: GROWBIN_SERVER, else the local stack, else the default port."""
    named = os.environ.get("GROWBIN_SERVER")
    port = _stack_settings().get("PORT")
    return named or (f"http://127.0.0.1:{port}" if port else DEFAULT_SERVER)


def use_stack_file() -> Path | None:
    """Take the settings of the stack that runs here, unless the environment names other parts; returns the
    file that told them. They are taken as a whole: an AWS profile of the shell's must not be mixed in."""
    told = _stack_settings()
    if not told or any(os.environ.get(name) not in (None, "", told.get(name)) for name in _PLACES):
        return None
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(told)
    return find_stack_file()


def find_stack_file() -> Path | None:
    """What `growbin stack` has written, in this folder or in one above it, and no other user has."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        file = folder / STACK_FILE
        if file.is_file() and file.stat().st_uid == os.getuid():
            return file
    return None


def _stack_settings() -> dict[str, str]:
    file = find_stack_file()
    words = shlex.split(file.read_text()) if file else []
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def embedded_model_key() -> str:
    """What callers of the embedded model must send; empty when they need not. It reads no other setting."""
    return os.environ.get("OPENAI_API_KEY", "")


def load_settings() -> Settings:
    """Settings from the environment; raises BadSetting with a line for each bad variable."""
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            variable = str(problem["loc"][0]).upper() if problem["loc"] else "settings"
            given = (
                ""
                if "secret" in variable.lower() or "key" in variable.lower()
                else f" (is {problem['input']!r})"
            )
            lines.append(
                f"{variable}{given if problem['loc'] else ''}: {problem['msg'].removeprefix('Value error, ')}"
            )
        raise BadSetting("\n".join(lines)) from None
