"""Diagnostics of a fit: sampler, convergence, modes, contraction, prior sensitivity.

Imports everything that computes a quantity of a fit: `symmetry`, `predict`, `validate`.
"""
