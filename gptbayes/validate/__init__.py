"""Checks with known answers: exact marginals, the conjugate bigram, simulation-based calibration.

`exact_marginals` tests draws against marginals that are known exactly at every stage,
`translations` does so for any model,
`conjugate_bigram` has the closed forms of one stage, and `simulated_ranks` has simulation-based
calibration: `sbc` of any CmdStan program, `calibrate` of a stage, which `experiment` describes.

Imports `gptbayes.toolchain`, `gptbayes.model`, `gptbayes.fit`, `gptbayes.inference` and
`gptbayes.stats`.
"""

from gptbayes.validate.simulated_ranks import calibrate, calibration_table, sbc
from gptbayes.validate.translations import check_translations, find_translations

__all__ = [
    "calibrate",
    "calibration_table",
    "check_translations",
    "find_translations",
    "sbc",
]
