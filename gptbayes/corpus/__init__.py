"""Read a text, encode it as tokens, split it into windows, and show its characters.

Tokens are 0-based here and everywhere in Python. `gptbayes.model.stan_data` makes them 1-based for
Stan. Imports nothing of the package.
"""

from gptbayes.corpus.characters import printable, visible
from gptbayes.corpus.numbers import real_number, whole_number
from gptbayes.corpus.texts import UNK, keep_frequent, read_text, source_name, zen_of_python
from gptbayes.corpus.windows import Split, Vocabulary, Windows, cut, split

__all__ = [
    "UNK",
    "Split",
    "Vocabulary",
    "Windows",
    "cut",
    "keep_frequent",
    "printable",
    "read_text",
    "real_number",
    "source_name",
    "split",
    "visible",
    "whole_number",
    "zen_of_python",
]
