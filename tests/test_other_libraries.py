"""Somebody else's posterior: a mixture by NumPyro and by PyMC, from a netCDF file.

Each test is skipped without its library: `pip install numpyro pymc` (the extra `others`).
"""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest

import gptbayes as gb
from gptbayes import Group, Permutation
from gptbayes.predict import influence
from gptbayes.symmetry.posterior import posterior_of

CENTRES = (-3.0, 3.0)


def observations():
    return np.random.default_rng(1).normal(np.repeat(CENTRES, 30), 0.7)


def by_numpyro(path):
    """Two chains of NUTS, which start with the components in opposite orders."""
    numpyro = pytest.importorskip("numpyro", reason="NumPyro is in the extra others")
    import jax
    import numpyro.distributions as dist

    def model(y):
        theta = numpyro.sample("theta", dist.Dirichlet(2 * np.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]))
        sigma = numpyro.sample("sigma", dist.LogNormal(0, 0.5).expand([2]))
        mixed = dist.MixtureSameFamily(dist.Categorical(theta), dist.Normal(mu, sigma))
        numpyro.sample("y", mixed, obs=y)

    sampler = numpyro.infer.MCMC(
        numpyro.infer.NUTS(model),
        num_warmup=200,
        num_samples=200,
        num_chains=2,
        chain_method="sequential",
        progress_bar=False,
    )
    starts = {
        "mu": np.array([CENTRES, CENTRES[::-1]]),
        "sigma": np.zeros((2, 2)),  # of logarithms
        "theta": np.zeros((2, 1)),
    }
    sampler.run(jax.random.PRNGKey(1), observations(), init_params=starts)
    az.from_numpyro(sampler, log_likelihood=True).to_netcdf(str(path))
    return {name: f"{name}_dim_0" for name in ("mu", "sigma", "theta")}


def by_pymc(path):
    pymc = pytest.importorskip("pymc", reason="PyMC is in the extra others")
    with pymc.Model(coords={"component": [0, 1]}):
        theta = pymc.Dirichlet("theta", 2 * np.ones(2), dims="component")
        mu = pymc.Normal("mu", 0, 5, dims="component")
        sigma = pymc.LogNormal("sigma", 0, 0.5, dims="component")
        pymc.NormalMixture("y", theta, mu, sigma=sigma, observed=observations())
        starts = [{"mu": np.array(each)} for each in (CENTRES, CENTRES[::-1])]
        idata = pymc.sample(
            200,
            tune=200,
            chains=2,
            cores=1,
            random_seed=1,
            initvals=starts,
            init="adapt_diag",
            progressbar=False,
            idata_kwargs={"log_likelihood": True},
        )
    idata.to_netcdf(str(path))
    return dict.fromkeys(("mu", "sigma", "theta"), "component")


@pytest.mark.slow  # PyTensor compiles
@pytest.mark.filterwarnings("default")  # of the other library
@pytest.mark.parametrize("sample", [by_numpyro, by_pymc])
def test_its_chains_agree_up_to_labels(sample, tmp_path):
    path = tmp_path / "posterior.nc"
    group = Group(Permutation(sample(path)))
    mixing = gb.diagnose_mixing(path, group)
    evidence = mixing.verdict.evidence
    r_hats = evidence["r_hat_max"].to_series()
    assert r_hats["raw variables"] > 1.5
    assert r_hats["aligned variables"] < 1.1
    means = posterior_of(mixing.aligned)["mu"].mean(("chain", "draw")).values
    np.testing.assert_allclose(np.sort(means), CENTRES, atol=0.5)
    found = influence(mixing.aligned, lambda p: p["mu"].max(p["mu"].dims[-1]))
    strongest = observations()[abs(found["influence"]).values.argsort()[-5:]]
    assert (strongest > 0).all()  # the larger mean rests on the right-hand cluster
