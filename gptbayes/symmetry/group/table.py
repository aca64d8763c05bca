"""All generators of the symmetry group of a stage, and the dimension of its orbits.

The likelihood is invariant under all of them, the posterior under those that keep the prior. The
prior is normal and independent, with one scale per family of parameters. It keeps rotations and
permutations within a family, and the sign of the residual stream, which changes the sign of
parameters with mean zero only. It keeps no change of scale and no translation.

Together the tangents of the continuous generators span the null space of the logits at almost every
point (Elhage et al. 2021 and Theus et al. 2025 describe parts of the group). Two kinds of stages
have a few more directions along the vector of ones, none of which keeps the prior: stages 09 to 11
with one head, and stage 12 where masks drop coordinates.
"""

from __future__ import annotations

import numpy as np

from gptbayes.model.forward import Parameters
from gptbayes.model.stages import Stage
from gptbayes.symmetry.dimension import ZERO
from gptbayes.symmetry.group.centring import centring_generators
from gptbayes.symmetry.group.compact import compact_generators
from gptbayes.symmetry.group.dropout import dropout_generators
from gptbayes.symmetry.group.embeddings import embedding_generators
from gptbayes.symmetry.group.families import Generator
from gptbayes.symmetry.group.heads import head_generators
from gptbayes.symmetry.group.hidden_units import hidden_unit_generators
from gptbayes.symmetry.group.layer_norms import layer_norm_generators
from gptbayes.symmetry.group.stream import stream_generators


def generators(stage: Stage) -> tuple[Generator, ...]:
    """The generators of the symmetry group of a stage.

    Parameters
    ----------
    stage : Stage
        In stages 11 and 12 with its masks: symmetries that the masks break are left out, and
        weights whose output they drop are free. Without masks nothing is dropped.

    Returns
    -------
    tuple of Generator
        Those that keep the prior are subgroups of larger ones that do not, so that dimensions do
        not add up: see `symmetry_dimension`.
    """
    return (
        *compact_generators(stage),
        *embedding_generators(stage),
        *stream_generators(stage),
        *head_generators(stage),
        *hidden_unit_generators(stage),
        *layer_norm_generators(stage),
        *centring_generators(stage),
        *dropout_generators(stage),
    )


def symmetries(stage: Stage) -> tuple[str, ...]:
    """Names of the generators that keep likelihood and prior, and so the posterior.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    tuple of str
    """
    return tuple(each.name for each in generators(stage) if each.keeps_prior)


def symmetry_dimension(stage: Stage, parameters: Parameters) -> int:
    """The dimension of the orbit of one draw: the rank of the tangents of all generators.

    Parameters
    ----------
    stage : Stage
    parameters : mapping of str to ndarray
        One draw, each ``(dims of that parameter)``.

    Returns
    -------
    int
        At almost every point this is the number of parameters less the rank of the Jacobian of
        the logits, see `gptbayes.symmetry.null_dimension`.
    """
    rows = [each.tangents(stage, parameters) for each in generators(stage) if each.continuous]
    names = [p.name for p in stage.parameters]
    flat = [
        np.concatenate([each[n].reshape(len(each[n]), parameters[n].size) for n in names], axis=1)
        for each in rows
    ]
    basis = np.concatenate(flat)
    basis /= np.maximum(np.linalg.norm(basis, axis=1, keepdims=True), np.finfo(float).tiny)
    values = np.linalg.svd(basis, compute_uv=False)
    return int((values > ZERO * values[0]).sum())
