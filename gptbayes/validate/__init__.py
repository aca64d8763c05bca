"""Checks with known answers: exact marginals, the conjugate bigram, simulation-based calibration.

`exact_marginals` tests draws against marginals that are known exactly at every stage,
`conjugate_bigram` has the closed forms of one stage, and `sbc` runs experiments, which `experiment`
describes.

Imports `gptbayes.model`, `gptbayes.fit`, `gptbayes.inference` and `gptbayes.stats`.
"""
