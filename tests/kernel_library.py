"""The kernels' shared library, called as C: for what needs no Stan."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptbayes.standata import stan_data

_NUMBERS = ctypes.POINTER(ctypes.c_double)
_INTS = ctypes.POINTER(ctypes.c_int)
_VECTORS = ("embedding", "offset", "weight", "bias", "output_mask", "feed_forward_mask")


class Sizes(ctypes.Structure):
    """`gptbayes_sizes` of gpt.h."""

    _fields_ = [(name, ctypes.c_int) for name in "stage V block_size C H L B T".split()]


class Result(NamedTuple):
    """What the library says.

    Attributes
    ----------
    log_lik : ndarray, (B, T)
        In nats.
    gradient : dict of str to ndarray, or None
        Of the weighted sum of ``log_lik``, each with the shape it has in the Stan program.
    """

    log_lik: np.ndarray
    gradient: dict[str, np.ndarray] | None


def call(library: Path, problem, stan, weights=None, with_gradient=True, length=None) -> Result:
    """Log likelihoods of one draw, whose arrays have Stan's shapes, and their gradient."""
    run, result = prepare(library, problem, stan, weights, with_gradient, length)
    assert run() == 0
    return result()


def prepare(library: Path, problem, stan, weights=None, with_gradient=True, length=None):
    """A function that calls the library, and one that gives what it found there.

    With a ``length``, on the first positions of all sequences only.
    """
    data, stage = stan_data(problem), problem.stage
    x, y = (np.array(data[name], dtype=np.int32)[:, :length] - 1 for name in ("x", "y"))
    sizes = stage.sizes(problem.design)
    numbers = Sizes(
        int(stage.number[:2]),
        *(sizes[name] for name in ("token", "position", "embed", "head", "layer")),
        *x.shape,
    )
    names = argument_names(stage)
    values = [_flat(name, stan[name] if name in stan else data[name]) for name in names]
    gradients = [
        np.zeros_like(value) if name in stan else None
        for name, value in zip(names, values, strict=True)
    ]
    weights = np.ones(x.shape) if weights is None else np.ascontiguousarray(weights)
    log_lik = np.empty(x.shape)
    function = ctypes.CDLL(str(library)).gptbayes_log_likelihood
    arguments = (
        ctypes.byref(numbers),
        x.ctypes.data_as(_INTS),
        y.ctypes.data_as(_INTS),
        _pointers(values),
        weights.ctypes.data_as(_NUMBERS),
        log_lik.ctypes.data_as(_NUMBERS),
        _pointers(gradients) if with_gradient else None,
    )
    keep = (x, y, values, gradients, weights)  # ctypes holds addresses only

    def run():
        return function(*arguments) if keep else 1

    def result():
        found = zip(names, gradients, strict=True)
        unflat = {
            name: _unflat(name, flat, np.shape(stan[name]))
            for name, flat in found
            if flat is not None
        }
        return Result(log_lik, unflat if with_gradient else None)

    return run, result


def argument_names(stage) -> list[str]:
    """The arguments of the stage's gpt_logits after x."""
    text = stage.program.parent / "functions/log_likelihood" / f"{stage.number[:2]}.stanfunctions"
    call = text.read_text().split("gpt_logits(")[-1].split(")")[0]
    return [name.strip() for name in call.split(",")][1:]


def _pointers(arrays):
    addresses = [None if a is None else a.ctypes.data_as(_NUMBERS) for a in arrays]
    return (_NUMBERS * len(arrays))(*addresses)


def _flat(name, value):
    """As Stan keeps it: item by item of an array, each matrix by columns."""
    value = np.asarray(value, dtype=float)
    if not name.endswith(_VECTORS):
        value = np.swapaxes(value, -1, -2)
    return np.ascontiguousarray(value).ravel()


def _unflat(name, flat, shape):
    if name.endswith(_VECTORS):
        return flat.reshape(shape)
    *items, rows, columns = shape
    return np.swapaxes(flat.reshape(*items, columns, rows), -1, -2)
