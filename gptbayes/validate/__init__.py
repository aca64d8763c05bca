"""Checks against known answers: exact marginals, the conjugate bigram, calibration.

Imports the model, the fits and their InferenceData.
"""
