"""Summaries of draws and tests of uniformity; nothing about transformers.

Imports nothing of the package but `gptbayes.findings`.
"""
