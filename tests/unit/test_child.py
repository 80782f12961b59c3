"""The ports of local parts."""

from __future__ import annotations

import subprocess
import sys

from growbin.local.child import draw_port

DRAW_MANY = "from growbin.local.child import draw_port; print(*(draw_port() for _ in range(800)))"


def test_a_port_is_not_given_to_two_processes() -> None:
    """What one process has drawn and does not use at the moment, another is not given: of 10,000 ports,
    200 and 800 would have some 16 in common."""
    ours = {draw_port() for _ in range(200)}
    drawn = subprocess.run([sys.executable, "-c", DRAW_MANY], capture_output=True, check=True, text=True)
    assert len(ours) == 200
    assert ours.isdisjoint(map(int, drawn.stdout.split()))
