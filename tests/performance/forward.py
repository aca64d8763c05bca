"""The forward pass over draws: `gptbayes.model.forward` against a `vmap` of JAX.

    python tests/performance/forward.py [--stage 12] [--quick]

Both give the log probability of every next character for every draw, in double precision on one
core; that they are the same to 1e-9 is checked first.
"""

import argparse

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import numpy as np
from measure import TOLERANCE, Peer, by_turns, machine, processor_seconds, table
from posed import Size, posed

from gptbayes.model.forward import forward, token_log_prob
from gptbayes.model.simulate import prior_draws

SIZES = (Size(V=28, C=8), Size(V=65, C=32), Size(V=65, C=32, B=1))
OURS = "ours, numpy"


def main():
    asked = _arguments()
    print(f"The forward pass of stage {asked.stage} over {asked.draws} draws\n{machine()}")
    print("A time is that of one draw.")
    for size in SIZES[:2] if asked.quick else SIZES:
        problem = posed(asked.stage, size)
        draws = prior_draws(problem, asked.draws, np.random.default_rng(3))
        peers = [*_ours(problem, draws), *_in_jax(problem, draws)]
        times = by_turns(peers, asked.turns, asked.seconds)
        print(f"\n{size}: {problem.stage.n_parameters(problem.design):,} parameters\n")
        print(table({name: values / asked.draws for name, values in times.items()}, OURS))


def _ours(problem, draws):
    stage, windows = problem.stage, problem.training
    return [
        _peer(OURS, lambda: token_log_prob(stage, draws, windows)),
        _peer("ours, logits and attention", lambda: forward(stage, draws, windows.x)),
    ]


def _in_jax(problem, draws):
    try:
        import jax
        import jax.numpy as jnp
        import jax_gpt
    except ImportError as error:
        print(f"skipped: jax, {error}")
        return []
    number = int(problem.stage.number[:2])
    masks = problem.stage.masks and [jnp.asarray(mask) for mask in problem.stage.masks]

    def log_prob(parameters, x, y):  # of one sequence
        log_p = jax.nn.log_softmax(jax_gpt.gpt(number, parameters, masks, x))
        return log_p[jnp.arange(len(y)), y]

    over_sequences = jax.vmap(log_prob, in_axes=(None, 0, 0))
    stan = jax.device_put(problem.stage.to_stan(draws, problem.design))
    arguments = (stan, *(jax.device_put(tokens) for tokens in problem.training))
    function = jax.jit(jax.vmap(over_sequences, in_axes=(0, None, None)))
    function = function.lower(*arguments).compile()
    _check(np.asarray(function(*arguments)), problem, draws)
    return [_peer("JAX, vmap", lambda: jax.block_until_ready(function(*arguments)))]


def _check(theirs, problem, draws):
    ours = token_log_prob(problem.stage, draws, problem.training)
    if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=TOLERANCE, atol=1e-12):
        raise SystemExit("void: JAX has other log probabilities than we, nothing can be compared")


def _peer(name, function):
    def seconds(count):
        return processor_seconds(lambda: [function() for _ in range(count)]) / count

    return Peer(name, None, seconds)


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="12", help="of the ladder (default %(default)s)")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and turns")
    parser.add_argument("--turns", type=int)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each turn")
    asked = parser.parse_args()
    asked.turns = asked.turns or (3 if asked.quick else 7)
    return asked


if __name__ == "__main__":
    main()
