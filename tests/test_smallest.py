"""The smallest sizes and fewest draws: all that is accepted goes through every command."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from problems import TEXT

from gptbayes import fit
from gptbayes.cli import main
from gptbayes.diagnostics.quantities import quantities
from gptbayes.inference import CHAINS, open_run
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import STAGES, VARIANTS
from gptbayes.report import Analysis

SMALL = {"block_size": 3, "batch_size": 4, "n_embed": 4, "n_head": 2, "n_layer": 1}
SIZES = {
    "one position": {"block_size": 1},
    "one sequence": {"batch_size": 1},
    "a width of one": {"n_embed": 1, "n_head": 1},
    "a width of two": {"n_embed": 2, "n_head": 2},
    "a vocabulary of one": {"text": "a" * 40},
    "a vocabulary of two": {"text": "ab" * 9 + "aabab" * 5},
    "all at once": {"text": "a" * 9, "block_size": 1, "batch_size": 1, "n_embed": 2, "n_head": 1},
}
ALL = {**STAGES, **VARIANTS}
NOTHING = re.compile(r"\b(nan|inf)\b")


def smallest(number, **changes):
    chosen = {"text": TEXT, **SMALL, **changes}
    text, block, batch = (chosen.pop(name) for name in ("text", "block_size", "batch_size"))
    sized = ALL[number].applicable(**chosen)
    return make_problem(ALL[number], text, block_size=block, batch_size=batch, **sized)


def command(capsys, *arguments):
    """Status of a command, and what it said; it never says nan, and never warns of arithmetic."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        status = main([str(each) for each in arguments])
    shown = capsys.readouterr()
    assert not NOTHING.search(shown.out), shown.out
    if status:
        assert status == 2, shown.err
        assert shown.err.startswith("gptbayes: ")
        assert len(shown.err.splitlines()) == 1
    return status, shown.out + shown.err


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", ALL)
def test_everything_computed_of_the_smallest_sizes_is_finite(number, size, tmp_path):
    """Weights, invariants, predictions and what exact answers there are, of draws of the prior."""
    if size == "a width of one" and "layer_norm" in ALL[number].features:
        with pytest.raises(ValueError, match=f"n_embed must be at least 2 at stage {number}"):
            smallest(number, **SIZES[size])
        return
    problem = smallest(number, **SIZES[size])
    idata = open_run(fit.prior(problem, tmp_path / "run", draws=9))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for name, values in quantities(idata).items():
            assert np.isfinite(values).all(), name
        found = Analysis(idata)
        assert all(not NOTHING.search(finding.text) for finding in found.findings)
        assert np.isfinite(found.held_out_log_prob).all()


@pytest.mark.slow
@pytest.mark.parametrize("draws", [1, 2, 4])
def test_few_draws_of_the_prior_go_through_every_command(draws, tmp_path, capsys):
    run = fit.prior(smallest("05"), tmp_path / "run", draws=draws)
    go_through(run, capsys, "prior")


@pytest.mark.parametrize(("chains", "draws"), [(1, 1), (2, 1), (2, 3), (1, 4), (2, 8)])
def test_few_draws_of_chains_go_through_every_command(programs, chains, draws, tmp_path, capsys):
    sizes = {"chains": chains, "iter_warmup": 30, "iter_sampling": draws}
    run = fit.nuts(smallest("05"), tmp_path / "run", **sizes)
    go_through(run, capsys, "nuts", least=8 if draws < 8 else None)


@pytest.mark.parametrize("size", ["one position", "one sequence", "a vocabulary of one"])
def test_the_smallest_sizes_go_through_every_command(programs, size, tmp_path, capsys):
    run = fit.nuts(
        smallest("12", **SIZES[size]), tmp_path / "run", chains=2, iter_warmup=5, iter_sampling=8
    )
    go_through(run, capsys, "nuts", alone=size == "one sequence")


@pytest.mark.parametrize("method", ["hmc", "pathfinder", "optimize", "smc"])
def test_the_least_of_every_method_goes_through_every_command(programs, method, tmp_path, capsys):
    least = {
        "hmc": {"chains": 1, "iter_warmup": 1, "iter_sampling": 1, "thin": 1},
        "pathfinder": {"paths": 1, "draws": 1},
        "optimize": {"starts": 1},
        "smc": {"replicates": 1, "chains": 1, "moves": 4},
    }
    run = getattr(fit, method)(smallest("05"), tmp_path / "run", **least[method])
    go_through(run, capsys, method, least=8)


def go_through(run, capsys, method, *, least=None, alone=False):
    """Every command that reads a run: done, or refused for its method or for what it takes."""
    html = run / "text.html"
    assert command(capsys, "report", run)[0] == 0
    figure = ["--contexts", 1, "--figure", run / "a.png"]
    assert command(capsys, "attention", run, *figure)[0] == 0
    assert command(capsys, "text", run, "--length", 1, "--check", "--html", html)[0] == 0
    assert command(capsys, "text", run, "--length", 1, "--kind", "marginal", "--prior")[0] == 0
    status, said = command(capsys, "symmetry", run)
    if method not in CHAINS:
        assert status == 2 and "chains must be those of nuts, hmc or smc" in said
    elif least:
        assert status == 2 and f"mixing needs at least {least} draws per chain, got " in said
    else:
        assert status == 0
    status, said = command(capsys, "compare", run, "--refits", 1, "--wbic")
    if alone:
        assert status == 2 and "needs at least 2 sequences" in said
    else:
        assert status == (0 if method in fit.MARKOV_CHAINS else 2)
        assert status == 0 or "compare needs at least one run of NUTS or HMC" in said
    status, said = command(capsys, "evidence", run, "--refit", "lm_head=2")
    assert status == (0 if method == "smc" else 2)
    assert status == 0 or "a path is that of smc" in said
