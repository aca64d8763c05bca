"""Work in several threads gives what one after another gives."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from gptbayes.stats.blocks import in_threads


def test_results_are_in_the_order_of_the_items():
    def slower_first(k):
        time.sleep(0.02 * (3 - k))
        return k

    assert in_threads(slower_first, range(4), at_a_time=4) == [0, 1, 2, 3]


def test_items_are_worked_on_at_the_same_time():
    meeting = threading.Barrier(2, timeout=20)
    in_threads(lambda _: meeting.wait(), range(2), at_a_time=2)


def test_one_thread_within_a_thread():
    def names(_):
        return in_threads(lambda _: threading.current_thread().name, range(3), at_a_time=2)

    for inner in in_threads(names, range(2), at_a_time=2):
        assert len(set(inner)) == 1
        assert inner[0] != threading.main_thread().name


def test_floating_point_warnings_are_as_for_the_caller():
    ones = np.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with np.errstate(divide="ignore"):
            assert np.isinf(in_threads(lambda k: ones[k] / np.zeros(1), range(2))).all()
        with pytest.raises(FloatingPointError), np.errstate(divide="raise"):
            in_threads(lambda k: ones[k] / np.zeros(1), range(2))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_there_are_no_more_threads_than_cores_that_may_be_used():
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    program += "from gptbayes.stats.blocks import THREADS; print(THREADS)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
