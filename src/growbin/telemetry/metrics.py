"""Every metric, declared once. Its label sets are there from the start: what never happened reads 0."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

# A second series beside each, which nobody asks for: a quarter of what a scrape costs.
disable_created_metrics()  # type: ignore[no-untyped-call]

SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
BYTES = (2**16, 2**18, 2**19, 2**20, 2**21, 2**22, 10 * 2**20)


Labelled = TypeVar("Labelled", bound=MetricWrapperBase)


def held(metric: Labelled) -> Labelled:
    """`metric`, which keeps at hand what `labels` has found: the library sorts and compares names each time.
    Not for one whose label sets go again, nor with values from outside: each is kept."""
    if not hasattr(metric.labels, "cache_info"):
        metric.labels = lru_cache(maxsize=None)(metric.labels)  # type: ignore[method-assign]
    return metric


def present(metric: MetricWrapperBase, *values: Iterable[str]) -> None:
    """All its label sets, as 0: a rate over what appears with its first event would miss that event."""
    held(metric)
    for combination in product(*values):
        metric.labels(*combination)


# --- the gateway

request_seconds = held(
    Histogram(
        "growbin_request_seconds",
        "Time to answer a request; progress streams are not counted",
        ("method", "route"),
        buckets=SHORT,
    )
)
requests = held(
    Counter("growbin_requests_total", "Requests by the status of the answer", ("method", "route", "status"))
)
uploads = Counter(
    "growbin_uploads_total",
    "Answers of upload-complete: `accepted`, why not, `unavailable` or `other`",
    ("outcome",),
)
UPLOAD_OUTCOMES = (
    "accepted",
    "backlog_full",
    "not_found",
    "photo_too_large",
    "too_many_unfinished",
    "unavailable",
    "unsupported_photo",
    "upload_expired",
    "upload_missing",
    "other",
)
present(uploads, UPLOAD_OUTCOMES)
open_streams = Gauge("growbin_open_streams", "Progress streams and waiting reads open now")
live_progress_lag_seconds = Histogram(
    "growbin_live_progress_lag_seconds",
    "From what the gateway publishes once a second to its own hearing of it",
    buckets=SHORT,
)
progress_unreadable = Counter(
    "growbin_progress_unreadable_total",
    "Live progress that could not be read, or not be handed on: it was skipped, and the log read instead",
)
streams_closed = Counter(
    "growbin_streams_closed_total",
    "Progress streams by how they ended: ended, drained, slow, gone, broken",
    ("end",),
)
present(streams_closed, ("ended", "drained", "slow", "gone", "broken"))
streams_reset = Counter("growbin_streams_reset_total", "Streams whose client had to forget what it knew")
open_connections = Gauge("growbin_open_connections", "Connections to the gateway's API open now")
connections_cut = Counter(
    "growbin_connections_cut_total",
    "Connections refused or cut before or after a call, by reason: address_full, process_full, silent, "
    "head_too_slow, head_too_large, bad_request, bad_expectation, bad_version, answer_unread",
    ("reason",),
)
present(
    connections_cut,
    (
        *("address_full", "process_full", "silent", "head_too_slow", "head_too_large"),
        *("bad_request", "bad_expectation", "bad_version", "answer_unread"),
    ),
)
calls_slowed = Counter(
    "growbin_calls_slowed_total", "Calls that had to wait for their turn: their address called too fast"
)
backlog_unknown = Gauge(
    "growbin_backlog_unknown",
    "1 while the broker's management does not tell how many jobs wait, so that nothing limits them",
)
feedback = Counter(
    "growbin_feedback_total",
    "What people said of answers (right, corrected, wrong), by how sure the answer was",
    ("verdict", "certainty"),
)
present(feedback, ("right", "corrected", "wrong"), ("sure", "probable", "unsure"))

# --- what Redis knows, read by each gateway with each scrape; NaN while it cannot be read

unfinished_jobs = Gauge("growbin_unfinished_jobs", "Accepted jobs without an end")
waiting_jobs = Gauge("growbin_waiting_jobs", "Accepted jobs that no consumer has begun")
oldest_waiting_seconds = Gauge(
    "growbin_oldest_waiting_seconds", "Since when the oldest job waits that no consumer has begun"
)
redis_used_bytes = Gauge("growbin_redis_used_bytes", "Memory that a role's server uses", ("role",))
redis_limit_bytes = Gauge(
    "growbin_redis_limit_bytes", "Memory above which a role's server refuses writes; 0: none", ("role",)
)
REDIS_ROLES = ("jobs", "progress", "sessions")
present(redis_used_bytes, REDIS_ROLES)
present(redis_limit_bytes, REDIS_ROLES)

# --- the life of jobs, in whichever process it is seen

answers = Counter(
    "growbin_answers_total",
    "Results by who answered: the model, an answer kept for the same owner, or the fallback",
    ("by",),
)
present(answers, ("model", "kept", "fallback"))
jobs_ended = Counter(
    "growbin_jobs_ended_total",
    "Jobs that this process ended, by terminal stage, failure code, or not_uploaded",
    ("outcome",),
)
deliveries = Counter(
    "growbin_deliveries_total",
    "What became of deliveries of the main queue: acknowledged, retried, dead_lettered, handed_back, lost",
    ("verdict",),
)
present(deliveries, ("acknowledged", "retried", "dead_lettered", "handed_back", "lost"))
obituaries_read = Counter("growbin_obituaries_read_total", "Dead letters that were turned into ends")
jobs_in_hand = Gauge("growbin_jobs_in_hand", "Jobs that this consumer has in hand")
job_starts = Counter("growbin_job_starts_total", "Starts of jobs: first, or again", ("start",))
present(job_starts, ("first", "again"))
queue_wait_seconds = Histogram(
    "growbin_queue_wait_seconds", "From upload-complete to a job's first start", buckets=LONG
)
stage_seconds = Histogram(
    "growbin_stage_seconds", "Time that a stage took: fetch, prepare, analyse", ("stage",), buckets=LONG
)
present(stage_seconds, ("fetch", "prepare", "analyse"))
job_seconds = Histogram("growbin_job_seconds", "From upload-complete to done", buckets=LONG)

# --- photos

photos_fetched = Counter(
    "growbin_photos_fetched_total",
    "Photos read, by source (cdn, s3) and the CDN's cache (hit, miss, none)",
    ("source", "cache"),
)
present(photos_fetched, ("cdn",), ("hit", "miss", "none"))
present(photos_fetched, ("s3",), ("none",))
photo_fetch_seconds = Histogram(
    "growbin_photo_fetch_seconds", "Time to read a photo from there", ("source",), buckets=SHORT
)
present(photo_fetch_seconds, ("cdn", "s3"))
photo_reads_failed = Counter(
    "growbin_photo_reads_failed_total",
    "Reads that gave no photo, or were not tried after some such",
    ("source",),
)
present(photo_reads_failed, ("cdn", "s3"))
s3_seconds = Histogram(
    "growbin_s3_seconds",
    "Time until S3 had answered, or was given up: look, read, put, delete, list",
    ("operation",),
    buckets=SHORT,
)
present(s3_seconds, ("look", "read", "put", "delete", "list"))
photo_bytes = Histogram("growbin_photo_bytes", "Size of the photos read", buckets=BYTES)

# --- the parts

part_away = Gauge("growbin_part_away", "1 while this consumer's breaker of the part is open", ("part",))
part_well = Gauge(
    "growbin_part_well", "1 while this process' check of it passes, as /readyz shows it", ("part",)
)
event_loop_lag_seconds = Histogram(
    "growbin_event_loop_lag_seconds", "How late the event loop wakes who sleeps", buckets=SHORT
)
model_call_seconds = Histogram("growbin_model_call_seconds", "Length of a model call", buckets=LONG)
model_refusals = Counter(
    "growbin_model_refusals_total",
    "Calls refused or not answered by the model, by whom it concerns: job, everybody, either, busy, away",
    ("whom",),
)
present(model_refusals, ("job", "everybody", "either", "busy", "away"))
model_tokens = Counter(
    "growbin_model_tokens_total",
    "Tokens of answered model calls: input (of it cached, and the picture's where it is told), output (of it"
    " reasoning)",
    ("kind",),
)
present(model_tokens, ("input", "cached", "picture", "output", "reasoning"))
model_cost_dollars = Counter(
    "growbin_model_cost_dollars_total", "What answered model calls cost by the table of prices"
)
budget_used_ratio = Gauge(
    "growbin_budget_used_ratio",
    "How much of everybody's fullest budget was used when this consumer last reserved a call",
)
budget_refusals = Counter(
    "growbin_budget_refusals_total",
    "Calls of the model not made because a budget was spent: everybody's, a session's, an address'",
    ("scope",),
)
present(budget_refusals, ("everybody", "session", "address"))
model_answers_unpriced = Counter(
    "growbin_model_answers_unpriced_total",
    "Answers whose price is not known: no row in the table, or no tokens told",
)
