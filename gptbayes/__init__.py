"""Bayesian analysis of the transformer posterior."""

__version__ = "0.1.0"
