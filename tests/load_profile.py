"""Room for a load that comes from one address and a few sessions: the only place where limits are raised.

As settings, and no further than a load needs; what a test wants to see refused, it lowers itself.
"""

from __future__ import annotations

LOAD_PROFILE = {
    "MAX_CONNECTIONS_PER_ADDRESS": "100000",
    "MAX_STREAMS_PER_SESSION": "100",
    "MAX_STREAMS_PER_ADDRESS": "100000",
    "MAX_STREAMS": "100000",
}
