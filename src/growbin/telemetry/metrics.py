"""Every metric, declared once."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)

request_seconds = Histogram(
    "growbin_request_seconds",
    "Time to answer a request; progress streams are not counted",
    ("method", "route", "status"),
    buckets=SHORT,
)
uploads = Counter(
    "growbin_uploads_total", "Answers of upload-complete: `accepted` or a problem's code", ("outcome",)
)
open_streams = Gauge("growbin_open_streams", "Progress streams and waiting reads open now")
progress_unreadable = Counter(
    "growbin_progress_unreadable_total",
    "Live progress that could not be read, or not be handed on: it was skipped, and the log read instead",
)
streams_closed = Counter(
    "growbin_streams_closed_total",
    "Progress streams by how they ended: ended, drained, slow, gone, broken",
    ("end",),
)
open_connections = Gauge("growbin_open_connections", "Connections to the gateway's API open now")
connections_cut = Counter(
    "growbin_connections_cut_total",
    "Connections refused or cut before or after a call, by reason: address_full, process_full, silent, "
    "head_too_slow, head_too_large, bad_request, bad_expectation, bad_version, answer_unread",
    ("reason",),
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
for _verdict in ("right", "corrected", "wrong"):
    for _certainty in ("sure", "probable", "unsure"):
        feedback.labels(verdict=_verdict, certainty=_certainty)

answers = Counter(
    "growbin_answers_total",
    "Results by who answered: the model, an answer kept for the same owner, or the fallback",
    ("by",),
)
for _by in ("model", "kept", "fallback"):
    answers.labels(by=_by)
jobs_ended = Counter(
    "growbin_jobs_ended_total",
    "Jobs that this process ended, by terminal stage, failure code, or not_uploaded",
    ("outcome",),
)
queue_wait_seconds = Histogram(
    "growbin_queue_wait_seconds", "From upload-complete to a job's start", buckets=LONG
)
photos_fetched = Counter(
    "growbin_photos_fetched_total",
    "Photos read, by source (cdn, s3) and the CDN's cache (hit, miss, none)",
    ("source", "cache"),
)
photo_fetch_seconds = Histogram(
    "growbin_photo_fetch_seconds", "Time to read a photo", ("source",), buckets=SHORT
)
part_away = Gauge("growbin_part_away", "1 while this consumer's breaker of the part is open", ("part",))
model_call_seconds = Histogram("growbin_model_call_seconds", "Length of a model call", buckets=LONG)
model_tokens = Counter(
    "growbin_model_tokens_total",
    "Tokens of answered model calls: input (of it cached, and the picture's where it is told), output (of it"
    " reasoning)",
    ("kind",),
)
for _kind in ("input", "cached", "picture", "output", "reasoning"):
    model_tokens.labels(kind=_kind)
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
for _scope in ("everybody", "session", "address"):
    budget_refusals.labels(scope=_scope)
model_answers_unpriced = Counter(
    "growbin_model_answers_unpriced_total",
    "Answers whose price is not known: no row in the table, or no tokens told",
)
