"""What does one gradient of the log posterior cost, here and elsewhere?

    python tests/performance/gradients.py [--stage 12] [--growth] [--quick]

All compute the same log density and the same gradient, in double precision, at the same point:
that is checked first, to 1e-9, and where it is not so nothing is printed but that.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import numpy as np
from measure import by_turns, machine, table
from peers import checked, load
from posed import Size, posed, prior_draw

SMALL, TUTORIAL = Size(V=28, C=8), Size(V=65, C=32)
USUAL = (SMALL, TUTORIAL)  # in a quick run; and PyTorch compiles for these alone
SIZES = (Size(V=28, C=4), SMALL, Size(V=65, C=16), TUTORIAL, Size(V=65, C=64))
GROWTH = {
    "B": (8, 32, 128),
    "T": (4, 8, 16, 32),
    "C": (4, 16, 64),
    "L": (1, 2, 4),
}


def main():
    asked = _arguments()
    print(f"One gradient of the log posterior of stage {asked.stage}\n{machine()}")
    modules = load()
    if asked.growth:
        _growth(asked, modules)
        return
    for size in USUAL if asked.quick else SIZES:
        times, n_parameters = _measured(asked, modules, size)
        print(
            f"\n{size}: {n_parameters:,} parameters\n\n{table(times, next(iter(times)))}",
            flush=True,
        )


def _growth(asked, modules):
    """One size at a time, the others as in the small problem."""
    for letter, values in GROWTH.items():
        values = values[:2] if asked.quick else values
        columns = [_measured(asked, modules, Size(**{letter: value}))[0] for value in values]
        heads = "".join(f"{f'{letter}={value}':>10}" for value in values)
        print(f"\nMilliseconds, medians, by {letter}\n\n  {'':<32}{heads}   power of {letter}")
        for name in columns[0]:
            times = [np.median(column[name]) for column in columns]
            cells = "".join(f"{time:>10.3f}" for time in times)
            slopes = np.diff(np.log(times)) / np.diff(np.log(values))
            print(f"  {name:<32}{cells}   {slopes[0]:.2f} to {slopes[-1]:.2f}", flush=True)


def _measured(asked, modules, size):
    """Milliseconds by turns of all that there are, and the number of parameters."""
    problem = posed(asked.stage, size)
    with TemporaryDirectory() as folder:
        compile_torch = size in USUAL and not (asked.quick or asked.growth)
        peers = checked(modules, problem, prior_draw(problem), Path(folder), compile_torch)
        times = by_turns(peers, asked.turns, asked.seconds)
    return times, problem.stage.n_parameters(problem.design)


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="12", help="of the ladder (default %(default)s)")
    parser.add_argument("--growth", action="store_true", help="how it grows with B, T, C and L")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and turns: a minute")
    parser.add_argument("--turns", type=int, help="how often each is measured")
    parser.add_argument("--seconds", type=float, help="of each turn")
    asked = parser.parse_args()
    short = asked.quick or asked.growth
    asked.turns = asked.turns or (3 if short else 5)
    asked.seconds = asked.seconds or (0.1 if short else 0.3)
    return asked


if __name__ == "__main__":
    main()
