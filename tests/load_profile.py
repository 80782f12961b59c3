"""Room for a load that comes from one address and a few sessions: the only place where limits are raised.

As settings, and no further than a load needs; what a test wants to see refused, it lowers itself. Every test
comes from one address: where the default rates would hinder it, ONE_ADDRESS makes room.
"""

from __future__ import annotations

ONE_ADDRESS = {
    "SESSION_TICKETS_PER_MINUTE": "1000000",
    "ADDRESS_TICKETS_PER_MINUTE": "1000000",
    "ALL_TICKETS_PER_MINUTE": "1000000",
    "READS_PER_SECOND": "100000",
    "CHANGES_PER_MINUTE": "1000000",
    "MAX_UNFINISHED_PER_SESSION": "100000",
    "MAX_UNFINISHED_PER_ADDRESS": "100000",
}
LOAD_PROFILE = {
    "MAX_CONNECTIONS_PER_ADDRESS": "100000",
    "MAX_STREAMS_PER_SESSION": "100",
    "MAX_STREAMS_PER_ADDRESS": "100000",
    "MAX_STREAMS": "100000",
    **ONE_ADDRESS,
}
