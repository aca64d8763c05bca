"""Bayesian analysis of the transformer posterior.

The names below are what an analysis needs; each is imported when it is first used.

>>> import gptbayes as gb
>>> problem = gb.make_problem(gb.stage("05"), gb.zen_of_python().lower())
>>> problem.stage.title
'Multi-headed self-attention'

- `stage`, `STAGES`: the twelve models
- `read_text`, `zen_of_python`, `make_problem`: from text to a problem
- `fit`: NUTS, HMC, Pathfinder, optimisation and prior draws
- `open_run`: InferenceData of a run directory
- `Group`, `Permutation`, `SignFlip`, `Orthogonal`, `read_group`, `check_invariance`, `align`,
  `diagnose_mixing`: symmetry of any model
- `Analysis`, `write_report`: everything that is asked of a fit, and its report
- `predict`, `attention`, `symmetry`, `diagnostics`, `validate`, `compare`, `plots`: the rooms
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gptbayes.home import provide_cache_folder as _provide_cache_folder

_provide_cache_folder()  # before any module imports ArviZ

__version__ = "0.2.0"

_HOMES = {
    "Analysis": "gptbayes.report.analysis",
    "Group": "gptbayes.symmetry.compact_group",
    "Orthogonal": "gptbayes.symmetry.compact_group",
    "Permutation": "gptbayes.symmetry.compact_group",
    "STAGES": "gptbayes.model.stages",
    "SignFlip": "gptbayes.symmetry.compact_group",
    "align": "gptbayes.symmetry.posterior",
    "check_invariance": "gptbayes.symmetry.invariance",
    "diagnose_mixing": "gptbayes.diagnostics.mixing",
    "make_problem": "gptbayes.model.problem",
    "open_run": "gptbayes.inference",
    "read_group": "gptbayes.symmetry.compact_group",
    "read_text": "gptbayes.corpus",
    "stage": "gptbayes.model.stages",
    "write_report": "gptbayes.report.write",
    "zen_of_python": "gptbayes.corpus",
}
_ROOMS = (
    "attention",
    "compare",
    "diagnostics",
    "fit",
    "plots",
    "predict",
    "symmetry",
    "validate",
)

__all__ = [
    "STAGES",
    "Analysis",
    "Group",
    "Orthogonal",
    "Permutation",
    "SignFlip",
    "align",
    "attention",
    "check_invariance",
    "compare",
    "diagnose_mixing",
    "diagnostics",
    "fit",
    "make_problem",
    "open_run",
    "plots",
    "predict",
    "read_group",
    "read_text",
    "stage",
    "symmetry",
    "validate",
    "write_report",
    "zen_of_python",
]

if TYPE_CHECKING:
    from gptbayes import (
        attention,
        compare,
        diagnostics,
        fit,
        plots,
        predict,
        symmetry,
        validate,
    )
    from gptbayes.corpus import read_text, zen_of_python
    from gptbayes.diagnostics.mixing import diagnose_mixing
    from gptbayes.inference import open_run
    from gptbayes.model.problem import make_problem
    from gptbayes.model.stages import STAGES, stage
    from gptbayes.report.analysis import Analysis
    from gptbayes.report.write import write_report
    from gptbayes.symmetry.compact_group import (
        Group,
        Orthogonal,
        Permutation,
        SignFlip,
        read_group,
    )
    from gptbayes.symmetry.invariance import check_invariance
    from gptbayes.symmetry.posterior import align


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"gptbayes.{name}")
    raise AttributeError(f"module 'gptbayes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_ROOMS])
