"""Influence of training sequences: exact refits, NUTS, and devinterp's localised SGLD.

    pip install torch devinterp
    python tests/performance/influence.py [--quick]

The question is by how much the log probability of each held-out passage changes if a training
sequence is left out. NUTS without that sequence answers it. Minus the covariance of the log
probability of the passage with that of the sequence over the posterior is its first-order
approximation. It is estimated from one run of NUTS and from devinterp's SGLD, which starts at the
posterior mode and replaces the prior by a normal distribution around it, the localisation. Its last
row has the prior as weight decay and no localisation, so that its target is the posterior. How SGLD
is tuned stands in `devinterp_peer`.

Sequences have four characters, so that leaving one out is a small change: with eight of 28 kinds
instead of four of 13, importance weights of nearly all sequences have a Pareto k above 0.7.
"""

import argparse
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import one_core  # noqa: F401 - first: it sets threads

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is loaded, which CmdStanPy does

# isort: split
import numpy as np
import xarray as xr
from measure import machine
from samplers import processor_seconds
from traces import Traces, passages, traces

from gptbayes import fit
from gptbayes.compare.refits import without_sequence
from gptbayes.corpus import keep_frequent, zen_of_python
from gptbayes.findings import PARETO_K_LIMIT
from gptbayes.groups import make_groups
from gptbayes.model.forward import token_log_prob
from gptbayes.model.problem import make_problem
from gptbayes.model.stages import stage
from gptbayes.predict import compare_with_refits, influence
from gptbayes.stats.summary import summarise

NUTS, IMPORTANCE = "NUTS, covariance", "NUTS, importance"


def main():
    asked = _arguments()
    text = keep_frequent(zen_of_python().lower(), 12)
    sizes = {"block_size": 4, "n_embed": 8, "n_head": 2}
    problem = make_problem(stage("05"), text, batch_size=asked.sequences, **sizes)
    if len(problem.held_out.x) < asked.sequences:
        raise SystemExit(f"at most {len(problem.held_out.x)} sequences, as many as passages")
    print(
        f"Influence of {asked.sequences} sequences on {asked.sequences} held-out passages, stage "
        f"05: {problem.stage.n_parameters(problem.design)} weights, {problem.n_targets} "
        f"characters\n{machine()}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        _compare(problem, Path(folder), asked)


def _compare(problem, folder, asked):
    whole = _nuts(problem, problem, folder / "all", asked, seed=1)
    nuts = _influences(whole)
    exact, error, seconds = _refits(problem, whole, folder, asked)
    clear = np.abs(exact) > 3 * error
    done = int(np.isfinite(exact).all("passage").sum())
    noise = float((error**2).mean() / (exact**2).mean())
    bad = int((nuts["pareto_k"].isel(passage=0) > PARETO_K_LIMIT).sum())
    print(
        f"Exact: {done} refits, {seconds:.0f} s; {int(clear.sum())} of {done * exact.passage.size} "
        f"changes are more than three standard errors from 0,\nroot mean square "
        f"{float((exact**2).mean()) ** 0.5:.3f} nats, of whose square {100 * noise:.0f} % is Monte "
        f"Carlo error\nPareto k is above {PARETO_K_LIMIT} for {bad} of {asked.sequences} "
        f"sequences\n\n{_heads()}"
    )
    print(_line(NUTS, "first order", nuts, whole, exact, clear, nuts))
    print(_line(IMPORTANCE, "importance sampling", nuts, whole, exact, clear, nuts), flush=True)
    _compare_sgld(problem, folder, asked, exact, clear, nuts)


def _compare_sgld(problem, folder, asked, exact, clear, nuts):
    try:
        import devinterp_peer as peer
    except ImportError as error:
        print(f"skipped: devinterp, {error}")
        return
    model = peer.model(problem, _mode(problem, folder / "mode"))
    tuned = []
    for each in peer.LOCALISATIONS:
        lr, acceptance, seconds = peer.step_size(model, problem, each, asked.pilot)
        found = peer.run(model, problem, each, lr, folder / each.name, asked)
        print(_line(each.name, "first order", _influences(found), found, exact, clear, nuts))
        tuned.append(f"{each.name}: lr {lr:.2g}, acceptance {acceptance:.2f}, {seconds:.0f} s")
    print("\nTuning\n  " + "\n  ".join(tuned))


def _nuts(reduced, problem, folder, asked, seed):
    """The log probabilities of sequences and passages of a problem over draws of a reduced one."""
    before = processor_seconds()
    with ThreadPoolExecutor(max_workers=1) as executor:
        fit.nuts(
            reduced,
            folder,
            chains=4,
            iter_warmup=asked.warmup,
            iter_sampling=asked.draws,
            seed=seed,
            executor=executor,
        )
    units = fit.read_draws(folder)
    names = [p.name for p in problem.stage.parameters]
    stacked = {name: np.stack([unit.variables[name] for unit in units]) for name in names}
    draws = problem.stage.from_stan(stacked, problem.design)
    log_prob = [
        token_log_prob(problem.stage, draws, windows).sum(axis=-1)
        for windows in (problem.training, passages(problem))
    ]
    return traces(*log_prob, processor_seconds() - before)


def _refits(problem, whole, folder, asked):
    """Exact changes of the mean log probability, (sequence, passage), and standard errors."""
    shape = (asked.sequences, whole.passages.sizes["passage"])
    exact = xr.DataArray(np.full(shape, np.nan), dims=("sequence", "passage"))
    error, seconds = exact.copy(), 0.0
    all_in = summarise(whole.passages)
    for i in np.linspace(0, asked.sequences - 1, asked.refits).round().astype(int):
        reduced = without_sequence(problem, int(i))
        found = _nuts(reduced, problem, folder / f"without-{i}", asked, seed=2 + int(i))
        left_out = summarise(found.passages)
        exact[i] = left_out["mean"] - all_in["mean"]
        error[i] = np.hypot(left_out["mcse_mean"], all_in["mcse_mean"])
        seconds += found.seconds
    return exact, error, seconds


def _influences(drawn: Traces) -> xr.Dataset:
    """`gptbayes.predict.influence` of every sequence on every passage."""
    idata = make_groups({"log_likelihood": drawn.sequences.to_dataset(name="log_lik")})
    each = [influence(idata, drawn.passages[..., k]) for k in range(drawn.passages.shape[-1])]
    return xr.concat(each, "passage", combine_attrs="drop")


def _heads():
    return (
        f"  {'':<24}{'refits: rank':>15}{'':>14}{'':>7}{'NUTS: rank':>15}{'':>14}{'largest':>9}"
        f"{'smallest':>10}{'':>8}\n"
        f"  {'':<24}{'correlation':>15}{'slope':>14}{'signs':>7}{'correlation':>15}{'slope':>14}"
        f"{'R-hat':>9}{'ESS':>10}{'seconds':>8}"
    )


def _line(name, estimate, found, drawn, exact, clear, nuts):
    against = compare_with_refits(found, exact).sel(estimate=estimate)
    values = {"first order": -found["influence"], "importance sampling": found["left_out"]}
    same = np.sign(values[estimate]) == np.sign(exact)
    signs = f"{100 * float(same.where(clear).mean()):.0f} %"
    beside = "-", "-"
    if name != NUTS:
        beside = _told(compare_with_refits(found, -nuts["influence"]).sel(estimate=estimate))
    worst = [summarise(each) for each in (drawn.sequences, drawn.passages)]
    rank, slope = _told(against)
    return (
        f"  {name:<24}{rank:>15}{slope:>14}{signs:>7}{beside[0]:>15}{beside[1]:>14}"
        f"{max(float(s['r_hat'].max()) for s in worst):>9.3f}"
        f"{min(float(s['ess_bulk'].min()) for s in worst):>10.0f}{drawn.seconds:>8.0f}"
    )


def _told(row):
    return [
        f"{float(row[n]):.2f} ± {float(row[n + '_se']):.2f}" for n in ("rank_correlation", "slope")
    ]


def _mode(problem, folder):
    """The best of four modes, with Stan's shapes."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        fit.optimize(problem, folder, starts=4, seed=1, executor=executor)
    best = max(fit.read_draws(folder), key=lambda unit: float(unit.method_variables["lp"][0]))
    return {p.name: best.variables[p.name][0] for p in problem.stage.parameters}


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=32, help="of 4 characters")
    parser.add_argument("--refits", type=int, help="sequences that are left out")
    parser.add_argument("--warmup", type=int, default=300, help="iterations of each chain of NUTS")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--pilot", type=int, default=400, help="steps for each step size")
    parser.add_argument("--sgld-burnin", type=int, help="steps")
    parser.add_argument("--sgld-draws", type=int)
    parser.add_argument("--sgld-thin", type=int, default=10, help="steps from draw to draw")
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    asked = parser.parse_args()
    usual = (5, 500, 300, 70) if asked.quick else (10, 1000, 1000, 300)
    names = ("refits", "draws", "sgld_burnin", "sgld_draws")
    for name, value in zip(names, usual, strict=True):
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    return asked


if __name__ == "__main__":
    main()
