"""Imported before everything else: one core, one thread, and the tests' own modules in reach.

NumPy's, XLA's and PyTorch's libraries read these settings once, when they are loaded. Programs that
are started from here, CmdStan's among them, stay on the same core.
"""

import os
import sys
from pathlib import Path

CORE = None
if hasattr(os, "sched_setaffinity"):  # Linux
    CORE = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORE})
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 "
    + os.environ.get("XLA_FLAGS", "")
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
