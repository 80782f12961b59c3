"""The training is tested in its own environment, without the packages of the other tests."""

from __future__ import annotations

import signal

# A shell that started the tests in the background has them ignore it, and their children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)
