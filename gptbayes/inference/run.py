"""Open a run directory as InferenceData."""

from __future__ import annotations

import logging
from pathlib import Path

import arviz as az

from gptbayes.fit import iter_draws, read_config, read_problem
from gptbayes.inference.conversion import convert
from gptbayes.inference.saved import load, save
from gptbayes.inference.smc_path import add_path

_log = logging.getLogger("gptbayes")


def open_run(folder: str | Path) -> az.InferenceData:
    """Open a run directory as InferenceData.

    The first call converts the CSV files and saves the result as ``posterior.nc``. Later calls
    load that file.

    Parameters
    ----------
    folder : path
        A run directory written by `gptbayes.fit`.

    Returns
    -------
    arviz.InferenceData
        Groups ``posterior``, ``sample_stats``, ``log_likelihood`` (chain, draw, sequence,
        position), ``observed_data``, ``constant_data``, ``prior``, ``prior_predictive`` and, if
        Stan generated text, ``posterior_predictive``. Log densities are in nats. The draws of all
        Pathfinder paths are one chain, with ``lp``, ``lp_approx`` and ``path`` in
        ``sample_stats``. A mode is one chain with one draw. Sequential Monte Carlo has one chain
        per replicate, the ``segment`` and the ``ancestor`` of each draw in ``sample_stats``, and a
        group ``path``, as of `tempering_path`. A fit by an optimizer also has the group ``modes``,
        the modes of all starts as the draws of one chain.

    Raises
    ------
    ValueError
        If the folder is not a finished run, or one of its files is corrupted.
    OSError
        If one of its files cannot be read for another reason, such as a missing permission.

    See Also
    --------
    problem_of : The problem that was fitted.
    parameters_of : The draws as arrays, for `gptbayes.model.forward.forward`.

    Examples
    --------
    >>> import tempfile
    >>> from gptbayes import fit
    >>> from gptbayes.corpus import zen_of_python
    >>> from gptbayes.model.problem import make_problem
    >>> from gptbayes.model.stages import stage
    >>> problem = make_problem(stage("05"), zen_of_python(), batch_size=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     idata = open_run(fit.prior(problem, folder, draws=20))
    >>> idata.posterior["key"].dims
    ('chain', 'draw', 'layer', 'head', 'embed', 'head_dim')
    """
    path = Path(folder) / "posterior.nc"
    if path.exists():
        return load(path)
    config = read_config(folder)
    idata = convert(config, read_problem(folder), iter_draws(folder))
    if config["method"] == "smc":
        add_path(idata, config, Path(folder) / "csv")
    try:
        save(idata, path)
    except OSError as error:  # a full disk, or somebody else's run that may only be read
        _log.warning("%s cannot be saved and will be made again when it is read: %s", path, error)
    return idata
