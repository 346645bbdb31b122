"""Killed at random moments, a run ends as if it had never been; `make chaos` does it at length."""

import pytest
from chaos import chaos

pytestmark = pytest.mark.slow


def test_killed_at_random_moments_it_ends_the_same(bake, tmp_path):
    starts = list(chaos(bake(accept_hooks=False), tmp_path, kills=5, seed=1))
    assert sum(name != "-" for _, name, _, _ in starts) == 5
    assert {outcome for *_, outcome in starts} == {"", "equal"}
