"""A plugin for pytest: kernels compiled for another machine, run by an emulator.

The tests of `tests/test_kernels.py` that call the shared library call ``driver.cpp`` instead,
linked with the same object file. CXX is the cross compiler, EMULATOR runs what it makes.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from pathlib import Path

import numpy as np

from gptbayes.model import log_density

DRIVER = Path(__file__).with_name("driver.cpp")


class Emulated:
    """In place of the `ctypes.CDLL` of a library of kernels."""

    def __init__(self, library: str) -> None:
        self.folder = Path(library).parent
        self.program = self.folder / "driver"
        if not self.program.exists():
            compiler = [*os.environ["CXX"].split(), "-std=c++17", "-O2", "-static"]
            sources = [f"-I{self.folder}", str(DRIVER), str(self.folder / "gpt.o")]
            subprocess.run([*compiler, *sources, "-o", str(self.program)], check=True)

    def run(self, mode: str, given: bytes) -> bytes:
        """What the driver answers."""
        command = [*os.environ["EMULATOR"].split(), str(self.program), mode]
        return subprocess.run(command, input=given, capture_output=True, check=True).stdout

    @functools.cache  # noqa: B019
    def lengths(self, sizes: bytes) -> list[tuple[int, bool]]:
        """Of every argument: its numbers, and whether it has a gradient."""
        lines = self.run("lengths", sizes).decode().splitlines()
        return [(int(count), kind == "1") for count, kind in map(str.split, lines)]

    def gptbayes_log_likelihood(self, sizes, x, y, values, weights, log_lik, gradients) -> int:
        """As gpt.h says."""
        sizes = bytes(sizes._obj)
        *_, n_sequences, n_positions, _ = np.frombuffer(sizes, np.int32)
        n, lengths = int(n_sequences * n_positions), self.lengths(sizes)
        parts = [sizes, np.int32(gradients is not None).tobytes()]
        parts += [ctypes.string_at(each, 4 * n) for each in (x, y)]
        for value, (count, _) in zip(values, lengths, strict=True):
            parts.append(ctypes.string_at(value, 8 * count))
        parts.append(ctypes.string_at(weights, 8 * n))
        answer = np.frombuffer(self.run("evaluate", b"".join(parts)))
        ctypes.memmove(log_lik, answer[1 : n + 1].tobytes(), 8 * n)
        at = n + 1
        for gradient, (count, has_gradient) in zip(gradients or (), lengths, strict=False):
            if has_gradient:
                found = np.ctypeslib.as_array(gradient, (count,))
                found += answer[at : at + count]
                at += count
        assert at == answer.size or gradients is None
        return int(answer[0])


class _Ctypes:
    """The module `ctypes`, but for `CDLL`."""

    CDLL = Emulated

    def __getattr__(self, name):
        return getattr(ctypes, name)


log_density.ctypes = _Ctypes()
