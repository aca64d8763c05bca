from __future__ import annotations

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pytest
from problems import small_problem

from gptbayes.fit import read_draws
from gptbayes.groups import IS_TREE, group_names
from gptbayes.inference import open_run, parameters_of, problem_of
from gptbayes.model.forward import token_log_prob

GROUPS = {
    "posterior",
    "posterior_predictive",
    "sample_stats",
    "log_likelihood",
    "observed_data",
    "constant_data",
    "prior",
    "prior_predictive",
}
SHAPES = {"nuts": (2, 100), "pathfinder": (1, 120), "optimize": (1, 1), "prior": (1, 60)}


@pytest.fixture(params=list(SHAPES))
def method(request):
    return request.param


def test_groups_dims_and_coords(runs, method):
    idata = open_run(runs[method])
    assert set(group_names(idata)) == GROUPS | ({"modes"} if method == "optimize" else set())
    assert idata.posterior["key"].dims == ("chain", "draw", "layer", "head", "embed", "head_dim")
    assert idata.posterior["key"].shape == (*SHAPES[method], 1, 3, 6, 2)
    assert idata.log_likelihood["log_lik"].dims == ("chain", "draw", "sequence", "position")
    characters = small_problem("05").vocabulary.characters
    assert tuple(idata.posterior["token"].values) == characters
    assert idata.attrs["method"] == method
    assert idata.attrs["target"] == ("prior" if method == "prior" else "posterior")


def test_nothing_is_lost_between_csv_netcdf_and_arrays(runs, method):
    """Made and saved by the first call, read by the second: equal, and equal to numpy."""
    first, second = open_run(runs[method]), open_run(runs[method])
    assert (runs[method] / "posterior.nc").is_file()
    for group in GROUPS:
        assert first[group].equals(second[group]), group
    assert first.attrs == second.attrs
    problem = problem_of(second)
    ours = token_log_prob(problem.stage, parameters_of(second), problem.training)
    np.testing.assert_allclose(second.log_likelihood["log_lik"].values, ours, atol=1e-10)


def test_problem_comes_back(runs):
    problem, wanted = problem_of(open_run(runs["nuts"])), small_problem("05")
    assert (problem.stage, problem.design, problem.priors, problem.vocabulary) == (
        wanted.stage,
        wanted.design,
        wanted.priors,
        wanted.vocabulary,
    )
    np.testing.assert_array_equal(problem.held_out.y, wanted.held_out.y)


def test_pathfinder_keeps_paths_and_log_densities(runs):
    stats = open_run(runs["pathfinder"]).sample_stats
    assert stats["path"].values[0].tolist() == [0] * 40 + [1] * 40 + [2] * 40
    assert (stats["lp"] - stats["lp_approx"]).std() > 0


def test_mode_is_the_best_start(runs):
    lps = [each.method_variables["lp"][0] for each in read_draws(runs["optimize"])]
    assert open_run(runs["optimize"]).sample_stats["lp"].item() == max(lps)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside ArviZ
def test_arviz_summary_and_trace_plot(runs):
    idata = open_run(runs["nuts"])
    table = az.summary(idata, var_names=["lm_head_offset"])
    assert len(table) == len(small_problem("05").vocabulary)
    assert {"r_hat", "ess_bulk", "ess_tail"} <= set(table.columns)
    if IS_TREE:
        assert az.plot_trace(idata, var_names=["lm_head_offset"], backend="none") is not None
    else:
        axes = az.plot_trace(idata, var_names=["lm_head_offset"], compact=True)
        assert axes.shape == (1, 2)
    plt.close("all")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside ArviZ
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pareto k, as it should be here
def test_arviz_loo_and_compare(runs):
    fits = {name: open_run(runs[name]) for name in ("nuts", "pathfinder")}
    assert az.loo(fits["nuts"]).n_data_points == 55
    assert list(az.compare(fits)["rank"]) == [0, 1]


def test_corrupted_netcdf_is_named_and_can_be_made_again(runs):
    path = runs["optimize"] / "posterior.nc"
    whole = open_run(runs["optimize"])
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"not netCDF"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"posterior\.nc is truncated or corrupted"):
            open_run(runs["optimize"])
    path.unlink()
    assert open_run(runs["optimize"]).posterior.equals(whole.posterior)


def test_not_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"a run directory has a config\.json"):
        open_run(tmp_path)


def test_prior_group_has_the_prior_scales(runs):
    idata = open_run(runs["nuts"])
    problem = problem_of(idata)
    for p in problem.stage.parameters:
        draws = idata.prior[p.name]
        assert abs(draws.std() / problem.priors.scale(p) - 1) < 5 / np.sqrt(2 * draws.size)


@pytest.mark.parametrize(("method", "kernels"), [("nuts", "stan"), ("prior", "numpy")])
def test_runs_without_recorded_kernels_are_read(method, kernels, runs, tmp_path):
    idata = open_run(runs[method])
    del idata.attrs["kernels"]
    idata.to_netcdf(str(tmp_path / "posterior.nc"), engine="netcdf4")
    assert open_run(tmp_path).attrs["kernels"] == kernels
