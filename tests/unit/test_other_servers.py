"""Other releases of broker and Redis, to run the rows on: had, or told why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.other_servers import SERVERS, CannotBeHad, unpacked


def test_server_without_debians_tools_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No skip, and no trace of Python, where it cannot be unpacked."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBeHad, match="unpacked from Debian's packages, and there is no apt-get here"):
        unpacked(SERVERS["rabbitmq-4"], tmp_path / "server")


def test_another_release_is_not_taken_for_the_one_that_was_asked_for(tmp_path: Path) -> None:
    """A suite that has moved on is told, so that nobody reads "passed on 3.10" of something else."""
    (tmp_path / "version").write_text("4.9.1-1")
    with pytest.raises(CannotBeHad, match=r"bookworm has rabbitmq-server 4.9.1-1, not 3\.10\.\*"):
        unpacked(SERVERS["rabbitmq-3.10"], tmp_path)
