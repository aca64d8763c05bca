"""Stan's HMC with trajectories of given length: CmdStan has it, and cmdstanpy cannot ask for it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def run_static_hmc(
    executable: str | Path,
    *,
    data: str | Path,
    output_dir: str | Path,
    inits: str | Path,
    metric: str,
    inv_metric: str | Path,
    seed: int,
    chain_ids: list[int],
    iter_warmup: int,
    iter_sampling: int,
    thin: int,
    int_time: float,
    step_size_jitter: float,
    step_size: float,
    adapt_engaged: bool = False,
    refresh: int = 100,
    sig_figs: int = 17,
) -> None:
    """Run one chain.

    Parameters
    ----------
    executable : path
        As `gptbayes.toolchain.compile_program` gives it.
    data, output_dir, inits, metric, inv_metric, seed, chain_ids, iter_warmup, iter_sampling, \
    thin, step_size, adapt_engaged, refresh, sig_figs
        As for `cmdstanpy.CmdStanModel.sample`, of a single chain.
    int_time : float
        Length of a trajectory: as many steps are taken as steps of the nominal size fit into it.
        Adaptation changes the step size at its end without changing their number.
    step_size_jitter : float
        Between 0 and 1. Step sizes are uniform between ``1 - jitter`` and ``1 + jitter`` times the
        nominal one, and so are the lengths.

    Raises
    ------
    RuntimeError
        If the program fails; `gptbayes.toolchain.interface.console` finds what it said.
    """
    work = Path(output_dir)
    command = [
        *(str(executable), f"id={chain_ids[0]}", f"init={inits}", "random", f"seed={seed}"),
        *("sample", f"num_samples={iter_sampling}", f"num_warmup={iter_warmup}", f"thin={thin}"),
        *("adapt", f"engaged={int(adapt_engaged)}", "algorithm=hmc"),
        *(f"metric={metric}", f"metric_file={inv_metric}", f"stepsize={step_size!r}"),
        *(f"stepsize_jitter={step_size_jitter}", "engine=static", f"int_time={int_time!r}"),
        *("data", f"file={data}", "output", f"file={work / 'draws.csv'}", f"refresh={refresh}"),
        *(f"sig_figs={sig_figs}", f"profile_file={work / 'profile.csv'}"),
    ]
    with open(work / "chain.console", "w", encoding="utf-8") as console:
        try:
            subprocess.run(command, cwd=work, stdout=console, stderr=subprocess.STDOUT, check=True)
        except OSError as error:
            raise RuntimeError(f"{executable} cannot be started: {error}") from None
        except subprocess.CalledProcessError as error:  # in the words of cmdstanpy
            raise RuntimeError(f"retcodes=[{error.returncode}]") from None
