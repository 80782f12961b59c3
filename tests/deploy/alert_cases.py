"""When each alert fires, at true durations: a case for each, over a system in which all is well otherwise.

Values are written as promtool reads them: `0x40` is 0 at forty scrapes 15 s apart, `0+3x40` counts up by 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SCRAPES = 160  # forty minutes
STEADY = f"x{SCRAPES}"


def steady(value: float) -> str:
    return f"{value}{STEADY}"


def growing(by: float) -> str:
    """A counter, by so much with each scrape."""
    return f"0+{by}{STEADY}"


# A system under load in which nothing is wrong.
WELL: dict[str, str] = {
    'up{app_kubernetes_io_component="gateway",pod="gateway-1"}': steady(1),
    'up{app_kubernetes_io_component="gateway",pod="gateway-2"}': steady(1),
    'up{app_kubernetes_io_component="consumer",pod="consumer-1"}': steady(1),
    "rabbitmq_build_info": steady(1),
    "rabbitmq_alarms_memory_used_watermark": steady(0),
    "rabbitmq_alarms_free_disk_space_watermark": steady(0),
    'rabbitmq_queue_consumers{queue="growbin.jobs"}': steady(1),
    'rabbitmq_queue_messages{queue="growbin.jobs.letters"}': steady(0),
    'growbin_part_away{part="model"}': steady(0),
    'growbin_part_away{part="s3"}': steady(0),
    'growbin_part_well{part="redis",pod="gateway-1"}': steady(1),
    'growbin_part_well{part="redis",pod="gateway-2"}': steady(1),
    'growbin_part_well{part="rabbitmq",pod="gateway-1"}': steady(1),
    'growbin_part_well{part="rabbitmq",pod="consumer-1"}': steady(1),
    'growbin_part_well{part="live_progress",pod="gateway-1"}': steady(1),
    'growbin_part_well{part="s3",pod="gateway-1"}': steady(1),
    "growbin_oldest_waiting_seconds": steady(1),
    'growbin_uploads_total{outcome="accepted"}': growing(10),
    'growbin_uploads_total{outcome="unavailable"}': steady(0),
    'growbin_uploads_total{outcome="backlog_full"}': steady(0),
    'growbin_jobs_ended_total{outcome="done"}': growing(10),
    'growbin_jobs_ended_total{outcome="cancelled"}': growing(10),
    'growbin_jobs_ended_total{outcome="expired"}': steady(0),
    'growbin_jobs_ended_total{outcome="photo_unreadable"}': growing(10),  # of photos that are none
    'growbin_redis_used_bytes{role="progress"}': steady(790),
    'growbin_redis_limit_bytes{role="progress"}': steady(1000),
    'growbin_redis_used_bytes{role="jobs"}': steady(10_000),  # without a limit
    'growbin_redis_limit_bytes{role="jobs"}': steady(0),
    'growbin_photos_fetched_total{source="cdn",cache="miss"}': growing(10),
    'growbin_photos_fetched_total{source="s3",cache="none"}': growing(1),
    'growbin_photo_reads_failed_total{source="cdn"}': growing(1),
    'growbin_photo_fetch_seconds_bucket{source="s3",le="2.5"}': growing(10),
    'growbin_photo_fetch_seconds_bucket{source="s3",le="5"}': growing(10),
    'growbin_photo_fetch_seconds_bucket{source="s3",le="+Inf"}': growing(10),
    'growbin_model_call_seconds_bucket{le="20"}': growing(10),
    'growbin_model_call_seconds_bucket{le="30"}': growing(10),
    'growbin_model_call_seconds_bucket{le="+Inf"}': growing(10),
    "growbin_model_call_seconds_count": growing(10),
    'growbin_model_refusals_total{whom="busy"}': growing(1),
    'growbin_request_seconds_bucket{route="/upload-complete/{job_id}",le="1"}': growing(10),
    'growbin_request_seconds_bucket{route="/upload-complete/{job_id}",le="2.5"}': growing(10),
    'growbin_request_seconds_bucket{route="/upload-complete/{job_id}",le="+Inf"}': growing(10),
    'growbin_event_loop_lag_seconds_bucket{pod="gateway-1",le="0.5"}': growing(10),
    'growbin_event_loop_lag_seconds_bucket{pod="gateway-1",le="1"}': growing(10),
    'growbin_event_loop_lag_seconds_bucket{pod="gateway-1",le="+Inf"}': growing(10),
    'growbin_streams_closed_total{end="ended"}': growing(10),
    'growbin_streams_closed_total{end="slow"}': growing(1),
    "growbin_streams_reset_total": steady(3),
    "growbin_backlog_unknown": steady(0),
    "growbin_budget_used_ratio": steady(0.5),
    'growbin_budget_refusals_total{scope="everybody"}': steady(0),
    'growbin_budget_refusals_total{scope="session"}': growing(1),
    'growbin_connections_cut_total{reason="process_full"}': growing(1),
    "growbin_open_streams": steady(4000),
    "growbin_progress_unreadable_total": steady(2),
}


@dataclass(frozen=True)
class Case:
    """Over WELL, `series` (None: it is gone) are so from the beginning; `alert` fires `fires_at`, but not
    `silent_at` yet, and nothing else does."""

    name: str
    alert: str
    series: Mapping[str, str | None]
    silent_at: str
    fires_at: str
    labels: Mapping[str, str] = field(default_factory=dict)


CASES: tuple[Case, ...] = (
    Case(
        "no gateway",
        "GrowbinGatewaysGone",
        {
            'up{app_kubernetes_io_component="gateway",pod="gateway-1"}': None,
            'up{app_kubernetes_io_component="gateway",pod="gateway-2"}': steady(0),
        },
        "1m45s",
        "2m",
    ),
    Case(
        "no consumer at all",
        "GrowbinNobodyConsumes",
        {'up{app_kubernetes_io_component="consumer",pod="consumer-1"}': None},
        "1m45s",
        "2m",
    ),
    Case(
        "consumers that do not consume",
        "GrowbinNobodyConsumes",
        {'rabbitmq_queue_consumers{queue="growbin.jobs"}': steady(0)},
        "1m45s",
        "2m",
    ),
    Case(
        "an open breaker, which stops the queue as well",
        "GrowbinPartAway",
        {
            'growbin_part_away{part="model"}': steady(1),
            'rabbitmq_queue_consumers{queue="growbin.jobs"}': steady(0),
            "growbin_oldest_waiting_seconds": steady(200),
            'growbin_jobs_ended_total{outcome="expired"}': growing(10),
        },
        "45s",
        "1m",
        {"part": "model"},
    ),
    Case(
        "S3 that no gateway finds, so that nobody uploads and nobody notices",
        "GrowbinPartAway",
        {
            'growbin_part_well{part="s3",pod="gateway-1"}': steady(0),
            'growbin_uploads_total{outcome="accepted"}': steady(0),
        },
        "45s",
        "1m",
        {"part": "s3"},
    ),
    Case(
        "one gateway that cannot write to Redis",
        "GrowbinRedisAway",
        {
            'growbin_part_well{part="redis",pod="gateway-2"}': steady(0),
            'growbin_part_well{part="live_progress",pod="gateway-1"}': steady(0),
            'growbin_uploads_total{outcome="unavailable"}': growing(10),
            "growbin_oldest_waiting_seconds": None,
        },
        "45s",
        "1m",
    ),
    Case(
        "one consumer without the broker",
        "GrowbinBrokerAway",
        {
            'growbin_part_well{part="rabbitmq",pod="consumer-1"}': steady(0),
            "rabbitmq_build_info": None,
            "growbin_oldest_waiting_seconds": steady(200),
        },
        "45s",
        "1m",
    ),
    Case(
        "a broker short of memory",
        "GrowbinBrokerAlarm",
        {
            "rabbitmq_alarms_memory_used_watermark": steady(1),
            'growbin_uploads_total{outcome="unavailable"}': growing(10),
        },
        "15s",
        "30s",
    ),
    Case(
        "a broker short of disk",
        "GrowbinBrokerAlarm",
        {"rabbitmq_alarms_free_disk_space_watermark": steady(1)},
        "15s",
        "30s",
    ),
    Case(
        "people who wait",
        "GrowbinPeopleWait",
        {"growbin_oldest_waiting_seconds": steady(61)},
        "1m45s",
        "2m",
    ),
    Case(
        "a full backlog",
        "GrowbinBacklogFull",
        {'growbin_uploads_total{outcome="backlog_full"}': growing(1)},
        "1m",
        "1m15s",
    ),
    Case(
        "one upload in eleven refused",
        "GrowbinUploadsRefused",
        {'growbin_uploads_total{outcome="unavailable"}': growing(1)},
        "2m",
        "2m15s",
    ),
    Case(
        "a tenth of the jobs expire",
        "GrowbinJobsFail",
        {'growbin_jobs_ended_total{outcome="expired"}': growing(3)},
        "5m",
        "5m15s",
    ),
    Case(
        "a deaf gateway",
        "GrowbinLiveProgressDeaf",
        {'growbin_part_well{part="live_progress",pod="gateway-1"}': steady(0)},
        "1m45s",
        "2m",
    ),
    Case(
        "Redis at four fifths",
        "GrowbinRedisNearlyFull",
        {'growbin_redis_used_bytes{role="progress"}': steady(810)},
        "4m45s",
        "5m",
        {"role": "progress"},
    ),
    Case(
        "a CDN that gives nothing",
        "GrowbinCdnPassedBy",
        {
            'growbin_photos_fetched_total{source="cdn",cache="miss"}': steady(0),
            'growbin_photos_fetched_total{source="s3",cache="none"}': growing(10),
            'growbin_photo_reads_failed_total{source="cdn"}': growing(10),
        },
        "5m",
        "5m15s",
    ),
    Case(
        "slow photos",
        "GrowbinPhotosSlow",
        {'growbin_photo_fetch_seconds_bucket{source="s3",le="2.5"}': growing(5)},
        "5m",
        "5m15s",
        {"source": "s3"},
    ),
    Case(
        "a slow model",
        "GrowbinModelSlow",
        {'growbin_model_call_seconds_bucket{le="20"}': growing(5)},
        "5m",
        "5m15s",
    ),
    Case(
        "a model that asks for patience",
        "GrowbinModelThrottles",
        {'growbin_model_refusals_total{whom="busy"}': growing(3)},
        "5m",
        "5m15s",
    ),
    Case(
        "slow answers",
        "GrowbinAnswersSlow",
        {'growbin_request_seconds_bucket{route="/upload-complete/{job_id}",le="1"}': growing(5)},
        "5m",
        "5m15s",
    ),
    Case(
        "a process that is too busy",
        "GrowbinEventLoopLate",
        {'growbin_event_loop_lag_seconds_bucket{pod="gateway-1",le="0.5"}': growing(9)},
        "10m",
        "10m15s",
        {"pod": "gateway-1"},
    ),
    Case(
        "streams that are cut",
        "GrowbinStreamsLost",
        {'growbin_streams_closed_total{end="slow"}': growing(2)},
        "5m",
        "5m15s",
    ),
    Case(
        "history that is lost",
        "GrowbinHistoryLost",
        {"growbin_streams_reset_total": growing(20)},
        "1m",
        "1m15s",
    ),
    Case(
        "a management that is silent",
        "GrowbinBacklogUnknown",
        {"growbin_backlog_unknown": steady(1)},
        "4m45s",
        "5m",
    ),
    Case(
        "a gateway without room for more connections",
        "GrowbinConnectionsRefused",
        {'growbin_connections_cut_total{reason="process_full"}': growing(1000)},
        "5m",
        "5m15s",
        {"reason": "process_full"},
    ),
    Case(
        "a budget at four fifths",
        "GrowbinBudgetNearlySpent",
        {"growbin_budget_used_ratio": steady(0.81)},
        "45s",
        "1m",
    ),
    Case(
        "a budget that is spent",
        "GrowbinBudgetSpent",
        {'growbin_budget_refusals_total{scope="everybody"}': growing(1)},
        "1m",
        "1m15s",
    ),
    Case(
        "many streams",
        "GrowbinStreamsNearLimit",
        {"growbin_open_streams": steady(10_001)},
        "4m45s",
        "5m",
    ),
    Case(
        "words that nobody can read",
        "GrowbinProgressUnreadable",
        {"growbin_progress_unreadable_total": growing(1)},
        "1m",
        "1m15s",
    ),
    Case(
        "a letter",
        "GrowbinDeadLetters",
        {'rabbitmq_queue_messages{queue="growbin.jobs.letters"}': steady(1)},
        "14m45s",
        "15m",
    ),
    Case(
        "one pod that does not answer",
        "GrowbinTargetDown",
        {'up{app_kubernetes_io_component="gateway",pod="gateway-2"}': steady(0)},
        "4m45s",
        "5m",
        {"app_kubernetes_io_component": "gateway", "pod": "gateway-2"},
    ),
    Case(
        "a broker that nobody measures",
        "GrowbinBrokerUnmeasured",
        {"rabbitmq_build_info": None},
        "4m45s",
        "5m",
    ),
)
