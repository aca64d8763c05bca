"""Dask workers for the units of a fit."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

TIMEOUT = 15
"""Seconds to wait for a scheduler."""


@contextmanager
def dask_executor(scheduler: str | None) -> Iterator[Executor | None]:
    """The executor of a Dask scheduler.

    Parameters
    ----------
    scheduler : str, optional
        Its address, or the name of its file, which ends in ``.json``.

    Yields
    ------
    Executor or None
        None without a scheduler.

    Raises
    ------
    ValueError
        If Dask is not installed.
    RuntimeError
        If the scheduler does not answer.
    """
    if scheduler is None:
        yield None
        return
    if importlib.util.find_spec("distributed") is None:
        raise ValueError("--scheduler needs Dask: pip install 'gptbayes[dask]'")
    from distributed import Client

    for name in [
        each for each in logging.root.manager.loggerDict if each.startswith("distributed")
    ]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say is said in one line
    where = {"scheduler_file" if scheduler.endswith(".json") else "address": scheduler}
    try:
        client = Client(**where, timeout=TIMEOUT)
    except (OSError, ValueError, TimeoutError) as error:
        raise RuntimeError(f"no Dask scheduler at {scheduler}: {error}") from None
    with client:
        yield client.get_executor()
