"""Every Redis key, each with its life. Braces are literal: a job's keys share one slot.

key                       role      life                                      holds
job:{id}                  jobs      UNUSED_TICKET_SECONDS, then RECORD_SECONDS  the upload's record
idempotency:{owner}:key   jobs      as above                                  the job that a key made
job:{id}:progress         progress  as the record; once uploaded LOG_SECONDS past the deadline, or the end
                                                                              snapshot
job:{id}:events           progress  as above; also the channel's name         the event log
job:{id}:result           progress  RESULT_SECONDS; without upload LOG_SECONDS  any end
job:{id}:lease            progress  the setting LEASE_SECONDS                 fencing token
job:{id}:attempts         progress  RESULT_SECONDS                            starts, paid calls, feedback
job:{id}:answer           progress  RESULT_SECONDS                            the raw model answer
unfinished:{holder}       progress  until the last deadline                   jobs, scored by deadline
part:{name}               progress  PART_SECONDS, renewed while it is away    since when a part is away
budget:{holder}           progress  BUDGET_SECONDS                            what it has spent
budget:{everybody}:open   progress  BUDGET_SECONDS                            reserved calls, by their lapse
same:{owner}:digest       progress  RESULT_SECONDS                            which job asked this before
agenda                    progress  until its last entry is done               deletions not finished
unfinished                progress  until its last job has ended, or is late  accepted jobs, for metrics
waiting                   progress  until its last job is begun, or late      those that no consumer has begun
session:{sha256}          sessions  NEW_SESSION_SECONDS, then SESSION_SECONDS, sliding  session
session:{sha256}:jobs     sessions  as the session                            its recent jobs
rate:{holder}:kind        sessions  until it is full                          a bucket: when it is full
readiness                 progress  READINESS_SECONDS                         proof of a write
canary:{gateway}          progress  seconds; also a channel's name            one write and message a second
session:{sha256}:news     progress  channel only                              a job is new, or driven again
"""

from __future__ import annotations

from uuid import UUID

RECORD_SECONDS = 24 * 3600
LOG_SECONDS = 3600
RESULT_SECONDS = 7 * 24 * 3600
BUDGET_SECONDS = 25 * 3600  # the longest window, and room
PART_SECONDS = 30  # more than twice as long as a consumer takes from one probe to the next
READINESS_SECONDS = 60
LONGEST_SESSION_SECONDS = 30 * 24 * 3600  # however it is used

READINESS = "readiness"
IDEMPOTENCY = "idempotency:"
AGENDA = "agenda"
UNFINISHED = "unfinished"
WAITING = "waiting"
EVERYBODY = "everybody"
NO_ADDRESS = "no_address"


def record(job_id: UUID) -> str:
    return f"job:{{{job_id}}}"


def idempotency(owner: str, key_hash: str) -> str:
    return f"{IDEMPOTENCY}{{{owner}}}:{key_hash}"


def progress(job_id: UUID | str) -> str:
    return f"job:{{{job_id}}}:progress"


def events(job_id: UUID | str) -> str:
    return f"job:{{{job_id}}}:events"


def job_of_events(channel: str) -> UUID:
    return UUID(channel[len("job:{") : -len("}:events")])


def result(job_id: UUID | str) -> str:
    """Also a pattern: `*` for the id."""
    return f"job:{{{job_id}}}:result"


def job_of_result(name: str) -> str:
    return name[len("job:{") : -len("}:result")]


def lease(job_id: UUID | str) -> str:
    """Also a pattern: `*` for the id."""
    return f"job:{{{job_id}}}:lease"


def attempts(job_id: UUID | str) -> str:
    return f"job:{{{job_id}}}:attempts"


def answer(job_id: UUID | str) -> str:
    """Also a pattern: `*` for the id."""
    return f"job:{{{job_id}}}:answer"


def budget(holder: str) -> str:
    """`holder`: EVERYBODY, a session's owner, or an address' hash."""
    return f"budget:{{{holder}}}"


def open_reservations() -> str:
    return f"budget:{{{EVERYBODY}}}:open"


def same(owner: str, digest: str) -> str:
    """`digest`: of photo and question, and of all else that an answer depends on."""
    return f"same:{{{owner}}}:{digest}"


def part(name: str) -> str:
    return f"part:{{{name}}}"


def session(owner: str) -> str:
    return f"session:{{{owner}}}"


def session_jobs(owner: str) -> str:
    return f"session:{{{owner}}}:jobs"


def session_news(owner: str) -> str:
    return f"session:{{{owner}}}:news"


def owner_of_session_news(channel: str) -> str | None:
    """None for another channel."""
    if not channel.startswith("session:{"):
        return None
    return channel[len("session:{") : -len("}:news")]


def rate(holder: str, kind: str) -> str:
    """`holder`: a session's owner, an address' hash, or `everybody`."""
    return f"rate:{{{holder}}}:{kind}"


def unfinished(holder: str) -> str:
    """`holder`: a session's owner, or an address' hash."""
    return f"unfinished:{{{holder}}}"


def canary(gateway: str) -> str:
    return f"canary:{{{gateway}}}"
