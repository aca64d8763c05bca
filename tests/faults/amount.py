"""How much `make faults` tries, and with which seed."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SEED = int(os.environ.get("FAULTS_SEED", "16"))
MANY = int(os.environ.get("FAULTS_MANY", "1"))
"""`make faults` runs everything so many times as often."""


def examples(n: int) -> settings:
    """Settings of a test with this many examples, times `MANY`."""
    return settings(
        max_examples=n * MANY,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
