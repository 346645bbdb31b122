"""Killed at random moments, a run ends as if it had never been; `make chaos` does it at length."""

import os
import tempfile
from pathlib import Path

import pytest
from chaos import chaos

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]


@pytest.fixture
def other_disk(tmp_path):
    """Return a folder on another file system than that of temporary files, if there is one."""
    memory = Path("/dev/shm")
    there = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if there else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("kills", "flags"), [(4, ""), (2, "--trainer.devices 2 --trainer.strategy ddp")], ids=["one", "two"]
)
def test_killed_at_random_moments_it_ends_the_same(bake, tmp_path, other_disk, kills, flags):
    project = bake(accept_hooks=False, output_dir=other_disk)
    starts = list(chaos(project, tmp_path, kills, flags, seed=1, forks=True))
    killed = [start for start in starts if start.signal != "-"]
    assert len(killed) == kills
    assert {start.outcome for start in starts} == {"", "equal"}
