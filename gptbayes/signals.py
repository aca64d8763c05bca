"""Signals that end the command: one line, nothing half done, no process left behind.

Imports little, for it is there before anything else.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable

from gptbayes import processes

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
AGAIN = 3.0
"""Seconds after a signal in which others, of somebody who cannot wait, are passed over."""


class _Ended(KeyboardInterrupt):
    """A signal that was handled.

    Of a plain `KeyboardInterrupt` that passes through ``exec`` of a string, as the imports of
    dataclasses have it, Python remembers that nobody handled it, even if somebody does later, and
    ends itself with SIGINT instead of the exit status. Of a subclass it does not.
    """


def run(command: Callable[[], int]) -> int:
    """Run a command that a signal may end, and say so in one line.

    On SIGINT (Ctrl-C), SIGTERM and SIGHUP the processes that it started are ended, and what it was
    doing is interrupted, so that temporary files are removed. A signal that is ignored when it
    starts, as SIGHUP is under ``nohup``, is ignored throughout.

    Parameters
    ----------
    command : callable
        Returns an exit status.

    Returns
    -------
    int
        That of the command, 1 after a signal.
    """
    received: dict[int, float] = {}

    def handle(number, _):
        if received and time.monotonic() - max(received.values()) < AGAIN:
            return
        received[number] = time.monotonic()
        processes.end_descendants(patience=0.5)
        raise _Ended

    numbers = [getattr(signal, name) for name in ENDING]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        for number in numbers:
            signal.signal(number, handle)
        status = command()
    except BaseException as error:  # the interrupt may have become another error on its way
        if not received and not isinstance(error, KeyboardInterrupt):
            raise
        status = _tell(received)
    finally:
        for number in numbers:  # what follows takes no time, and tidies up
            signal.signal(number, signal.SIG_IGN)
    if received:
        processes.end_descendants()
    return status


def _tell(received):
    name = signal.Signals(next(iter(received), signal.SIGINT)).name
    what = "interrupted" if name == "SIGINT" else f"ended by {name}"
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        print(
            f"gptbayes: {what}; finished units are saved, the same command resumes the run",
            file=sys.stderr,
            flush=True,
        )
    return 1
