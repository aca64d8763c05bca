"""devinterp's localised SGLD and its influence function, on our stages in PyTorch.

It gets what helps it: all sequences in every batch; the temperature of the posterior, so that its
``n_beta`` is the number of characters; weights in units of their prior standard deviations, which
is also the metric of our NUTS, so that a localisation of 1 is as wide as the prior; and, as its
notebook on calibration advises, the step size with a Metropolis acceptance rate of about 0.9.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torch_gpt
import xarray as xr
from datasets import Dataset
from devinterp.optim import SGMCMC
from devinterp.slt.bif import compute_bif
from devinterp.slt.sampling import sample
from samplers import processor_seconds
from traces import passages, traces

from gptbayes.model.forward import token_log_prob
from gptbayes.stats.summary import OVER

torch.set_num_threads(1)
ACCEPTANCE = 0.9  # of the Metropolis step that SGLD leaves out
LARGEST_STEP = 0.1


class Localisation(NamedTuple):
    """The density that replaces the prior: precisions around the mode and around the prior mean."""

    name: str
    at_mode: float
    at_prior_mean: float


LOCALISATIONS = (
    Localisation("SGLD, localisation 100", 100.0, 0.0),
    Localisation("SGLD, localisation 10", 10.0, 0.0),
    Localisation("SGLD, prior", 0.0, 1.0),
)


def model(problem, values) -> Model:
    """A stage in PyTorch; everything stops if its likelihood is not ours.

    Parameters
    ----------
    problem : Problem
    values : dict of str to ndarray
        Where SGLD starts, with Stan's shapes.
    """
    made = Model(problem, values)
    _check(made, problem)
    return made


class Model(torch.nn.Module):
    """A stage whose parameters are in units of their prior standard deviations."""

    def __init__(self, problem, values):
        super().__init__()
        self.stage = int(problem.stage.number[:2])
        self.prior = {
            p.name: (p.prior_mean, problem.priors.scale(p)) for p in problem.stage.parameters
        }
        self.weights = torch.nn.ParameterDict(
            {
                name: torch.nn.Parameter(torch.tensor((values[name] - mean) / scale).float())
                for name, (mean, scale) in self.prior.items()
            }
        )

    def forward(self, tokens):
        p = {name: m + s * self.weights[name] for name, (m, s) in self.prior.items()}
        return torch_gpt.gpt(self.stage, p, None, tokens)


def _loss(model, tokens):
    """Of each character, in nats: (sequence, position + 1) -> (sequence, position)."""
    return F.cross_entropy(model(tokens[:, :-1]).mT, tokens[:, 1:], reduction="none")


def _tokens(windows):
    return np.concatenate([windows.x, windows.y[:, -1:]], axis=1)


def step_size(model, problem, localisation, n_steps):
    """The step size, a power of two times the largest, with acceptance nearest to 0.9."""
    before = processor_seconds()
    lr, acceptance = LARGEST_STEP, 0.0
    while acceptance < ACCEPTANCE:
        last, lr = (lr, acceptance), lr / 2
        acceptance = _acceptance(model, problem, localisation, lr, n_steps)
    if abs(last[1] - ACCEPTANCE) < abs(acceptance - ACCEPTANCE):
        lr, acceptance = last
    return lr, acceptance, processor_seconds() - before


def _acceptance(model, problem, localisation, lr, n_steps):
    """Mean acceptance probability of SGLD's steps as proposals, in the second half of a pilot run.

    The proposals of Roberts & Tweedie (1996), section 1.4; devinterp had such a rate until
    version 1.
    """
    torch.manual_seed(0)
    tokens, pilot = torch.tensor(_tokens(problem.training)), deepcopy(model)
    steps = SGMCMC.sgld(
        list(pilot.parameters()),
        lr=lr,
        nbeta=problem.n_targets,
        localization=localisation.at_mode,
        weight_decay=localisation.at_prior_mean,
    )
    start = _flat(pilot)

    def energy():
        """Minus the log density, its gradient, and the point; gradients of the loss are left."""
        pilot.zero_grad()
        loss = _loss(pilot, tokens).mean()
        loss.backward()
        point = _flat(pilot)
        slope = torch.cat([p.grad.flatten() for p in pilot.parameters()]).double()
        away = point - start
        value = problem.n_targets * loss.item() + 0.5 * float(
            localisation.at_mode * away @ away + localisation.at_prior_mean * point @ point
        )
        prior = localisation.at_mode * away + localisation.at_prior_mean * point
        return value, problem.n_targets * slope + prior, point

    rates, (value, slope, point) = [], energy()
    for _ in range(n_steps):
        steps.step()
        new_value, new_slope, new_point = energy()
        there = new_point - point + lr / 2 * slope
        back = point - new_point + lr / 2 * new_slope
        log_ratio = value - new_value + float(there @ there - back @ back) / (2 * lr)
        if not np.isfinite(log_ratio):
            return 0.0
        rates.append(np.exp(min(log_ratio, 0.0)))
        value, slope, point = new_value, new_slope, new_point
    return float(np.mean(rates[n_steps // 2 :]))


def _flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


def run(model, problem, localisation, lr, folder, asked):
    """Traces of devinterp, whose influence function is checked against ours on them."""
    before = processor_seconds()
    windows = {"sequences": problem.training, "passages": passages(problem)}
    data = {
        name: Dataset.from_dict({"input_ids": _tokens(each)}).with_format("torch")
        for name, each in windows.items()
    }
    warnings.filterwarnings("error", "Chain failed")
    tree = sample(
        model,
        data["sequences"],
        {name: (each, 1) for name, each in data.items()},
        lr=lr,
        n_beta=problem.n_targets,
        localization=localisation.at_mode,
        llc_weight_decay=localisation.at_prior_mean,
        num_chains=4,
        num_draws=asked.sgld_draws,
        num_burnin_steps=asked.sgld_burnin,
        num_steps_bw_draws=asked.sgld_thin,
        batch_size=len(problem.training.x),
        num_init_loss_batches=1,
        shuffle=False,
        device="cpu",
        loss_fn=_loss,
        output_path=folder,
    )
    summed = []
    for name, each in windows.items():
        order = _order(tree[f"input_ids_{name}"].values, _tokens(each))
        summed.append(-tree[f"loss_{name}"].sum("token_pos").values.astype(float)[..., order])
    found = compute_bif(tree, correlation_method="sequence", compute_covariance=True)
    drawn = traces(*summed, processor_seconds() - before)
    _check_covariances(found, tree, windows, drawn)
    return drawn


def _order(shuffled, wanted):
    """Where the rows that are wanted are in the shuffled ones; equal rows have equal losses."""
    same = (wanted[:, None] == shuffled[None]).all(axis=-1)  # (wanted, shuffled)
    if not same.any(axis=1).all():
        raise RuntimeError("devinterp observed other passages than those that it was given")
    return same.argmax(axis=1)


def _check_covariances(found, tree, windows, drawn):
    """Their covariances are of mean losses, those of passages first: names are sorted."""
    n, block_size = windows["sequences"].x.shape
    rows, columns = (
        _order(tree[f"input_ids_{name}"].values, _tokens(windows[name]))
        for name in ("passages", "sequences")
    )
    theirs = block_size**2 * found["influences"].values[:n, n:][np.ix_(rows, columns)]
    ours = xr.cov(drawn.passages, drawn.sequences, dim=OVER, ddof=1)
    if not np.allclose(theirs, ours.transpose("passage", "sequence"), rtol=1e-3, atol=1e-3):
        raise SystemExit("void: devinterp's covariances of its draws are not ours")


def _check(model, problem):
    """Stop everything if the two do not have the same likelihood."""
    with torch.no_grad():
        theirs = -_loss(model, torch.tensor(_tokens(problem.training))).numpy()
    p = {n: m + s * model.weights[n].detach().double().numpy() for n, (m, s) in model.prior.items()}
    draw = problem.stage.from_stan({n: v[None] for n, v in p.items()}, problem.design)
    ours = token_log_prob(problem.stage, draw, problem.training)[0]
    if not np.allclose(theirs, ours, rtol=1e-4, atol=1e-4):
        raise SystemExit("void: the model in PyTorch has another likelihood than ours")
