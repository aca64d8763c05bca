"""The symmetry group of each stage, one module per part of the network.

Each module holds the actions on its part and the generators made from them:

- `compact`: what leaves the prior unchanged too, as data: permutations, rotations, signs;
- `embeddings`: embeddings and the LM head;
- `stream`: bases of the residual stream;
- `heads`: bases of the attention heads;
- `hidden_units`: scales of the hidden units of the feed-forward layer;
- `layer_norms`: gains and biases of layer norms;
- `centring`: constants that layer norms and the softmax remove;
- `dropout`: weights whose output a mask drops.

`table` collects the generators of a stage. `families` defines generators, their random elements
and their tangents. `architecture`, `masks` and `axes` are shared by all of these.

An action maps parameters to parameters with the same logits at every context, up to one constant
per context, which the softmax removes. Conventions are those of the forward pass: vectors are rows,
so that a matrix multiplies the residual stream from the right. Batch dims ``(...)`` of parameters
and group elements broadcast. Actions are analytic functions of their element, so that complex steps
give their tangents. Actions do not check that their element is a symmetry of the stage; generators
say which elements are.
"""

from gptbayes.symmetry.group.families import Generator
from gptbayes.symmetry.group.table import generators, symmetries, symmetry_dimension

__all__ = ["Generator", "generators", "symmetries", "symmetry_dimension"]
