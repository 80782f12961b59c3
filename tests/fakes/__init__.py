"""Fakes of the ports: in memory, with the meaning that the ports' docstrings promise.

Each may be told to be away (`is_away = True`): then every call raises Unavailable. Time is the
machine's, moved ahead by `clock.advance(seconds)` where a test cannot wait.
"""

from __future__ import annotations

from tests.fakes.absence import MayBeAway
from tests.fakes.agenda import FakeAgenda
from tests.fakes.clock import Clock
from tests.fakes.job_queue import FakeJobQueue
from tests.fakes.job_records import FakeJobRecords
from tests.fakes.letters import FakeDeadLetters
from tests.fakes.outages import FakeOutages
from tests.fakes.photo_cache import FakePhotoCache
from tests.fakes.progress_feed import FakeProgressFeed
from tests.fakes.progress_log import FakeProgressLog
from tests.fakes.session_jobs import FakeSessionJobs
from tests.fakes.sessions import FakeSessions
from tests.fakes.upload_store import FakeUploadStore

__all__ = [
    "Clock",
    "FakeAgenda",
    "FakeDeadLetters",
    "FakeJobQueue",
    "FakeJobRecords",
    "FakeOutages",
    "FakePhotoCache",
    "FakeProgressFeed",
    "FakeProgressLog",
    "FakeSessionJobs",
    "FakeSessions",
    "FakeUploadStore",
    "MayBeAway",
]
