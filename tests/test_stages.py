from __future__ import annotations

import re

import numpy as np
import pytest

from gptbayes.model.design import Design
from gptbayes.model.stages import STAGES, stage

DESIGN = Design(65, 8, 32, n_embed=32, n_head=2, n_layer=2)


def test_there_are_twelve_with_the_tutorials_names():
    assert list(STAGES) == [f"{n:02d}" for n in range(1, 13)]
    assert STAGES["05"].name == "05-multi-headed-self-attention"
    assert STAGES["12"].name == "12-final"


def test_parameter_counts():
    """Hand counts from the tutorial's shapes: V=65, T=8, C=32, H=2, L=2."""
    V, T, C, L = 65, 8, 32, 2
    head = V * C + V
    attention = 3 * C * C
    wide = 8 * C * C + 5 * C
    blocks = L * (attention + wide + 4 * C) + 2 * C
    counts = {
        "01": V * V,
        "02": V * C + head,
        "03": (V + T) * C + head,
        "04": (V + T) * C + attention + head,
        "05": (V + T) * C + attention + head,
        "06": (V + T) * C + attention + C * C + C + head,
        "08": (V + T) * C + attention + wide + head,
        "10": (V + T) * C + blocks + head,
        "12": (V + T) * C + blocks + L * (C * C + C) + head,
    }
    assert {n: STAGES[n].n_parameters(DESIGN) for n in counts} == counts
    assert counts["06"] == 8_609  # of which the tutorial writes 25,496 columns


def test_each_stage_adds_to_the_one_before():
    for lower, upper in zip(list(STAGES.values()), list(STAGES.values())[1:], strict=False):
        assert lower.features < upper.features


@pytest.mark.parametrize("given", ["05", "5", 5, "05-multi-headed-self-attention"])
def test_lookup(given):
    assert stage(given) is STAGES["05"]


@pytest.mark.parametrize("given", ["13", "five", "", "0"])
def test_unknown_stage_lists_the_valid_ones(given):
    with pytest.raises(ValueError, match=r"valid stages: 01, 02, .*, 12"):
        stage(given)


def test_programs_declare_the_parameters_of_the_table(problem):
    """The table and the text of the Stan program name the same parameters in the same order."""
    block = re.search(r"\nparameters \{\n(.*?)\n\}", problem.stage.program.read_text(), re.S)[1]
    declared = re.findall(r"(\w+);", block)
    assert declared == [parameter.name for parameter in problem.stage.parameters]


def test_stan_arrays_there_and_back(problem, rng):
    values = {
        p.name: rng.normal(size=(2, 3, *problem.stage.stan_shape(p, problem.design)))
        for p in problem.stage.parameters
    }
    ours = problem.stage.from_stan(values, problem.design)
    for p in problem.stage.parameters:
        assert ours[p.name].shape == (2, 3, *problem.stage.shape(p, problem.design))
    back = problem.stage.to_stan(ours, problem.design)
    for name in values:
        np.testing.assert_array_equal(back[name], values[name])


def test_wrong_shape_says_wanted_and_got():
    with pytest.raises(ValueError, match=r"lm_head_offset must have shape .*65.*got \(64,\)"):
        values = {
            p.name: np.zeros(STAGES["02"].stan_shape(p, DESIGN)) for p in STAGES["02"].parameters
        }
        STAGES["02"].from_stan({**values, "lm_head_offset": np.zeros(64)}, DESIGN)
    with pytest.raises(ValueError, match="parameter token_embedding is missing"):
        STAGES["02"].from_stan({}, DESIGN)


def test_arguments_are_masks_then_parameters():
    names = [argument.name for argument in STAGES["11"].arguments]
    masks = ["attention_mask", "attention_output_mask", "feed_forward_mask"]
    assert names == [*masks, *(parameter.name for parameter in STAGES["11"].parameters)]
    types = {argument.name: argument.stan_type for argument in STAGES["12"].arguments}
    assert types["attention_mask"] == "data array[,] matrix"
    assert types["token_embedding"] == "array[] vector"
    assert types["lm_head_multiplier"] == "matrix"


def test_stages_share_the_order_of_their_arguments(problem):
    names = [argument.name for argument in problem.stage.arguments]
    assert names == [argument.name for argument in STAGES["12"].arguments if argument.name in names]
