"""How many faults of each kind were survived, told at the end."""

from __future__ import annotations

from collections import Counter

import pytest


@pytest.fixture
def survived(record_property):
    """Call it with a kind of fault for each that did no harm."""
    counts: Counter[str] = Counter()
    yield lambda kind: counts.update([kind])
    for kind, count in counts.items():
        record_property(f"survived {kind}", count)


def pytest_terminal_summary(terminalreporter):
    counts: Counter[str] = Counter()
    passed = {report.nodeid for report in terminalreporter.stats.get("passed", [])}
    for report in terminalreporter.stats.get("", []):  # of pytest: what was set up and torn down
        if report.when == "teardown" and report.nodeid in passed:
            for name, count in report.user_properties:
                if name.startswith("survived "):
                    counts[name.removeprefix("survived ")] += count
    if counts:
        terminalreporter.section("faults that did no harm")
    for kind, count in sorted(counts.items()):
        terminalreporter.line(f"{count:8,} {kind}")
