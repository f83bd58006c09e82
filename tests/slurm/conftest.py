"""One Slurm for all tests of this folder, started when the first of them asks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running one-node cluster; the tests are skipped where there cannot be one, saying why."""
    if reason := missing():
        pytest.skip(reason)
    # Not in pytest's own folder for temporary files: its path may be too long for a socket, and it keeps old ones.
    with tempfile.TemporaryDirectory(prefix="swlottery-slurm-") as folder, Cluster(Path(folder)) as running:
        yield running
