"""Generating text, one sequence per draw: `gptbayes.model.simulate.generate_text` and JAX.

    python tests/performance/texts.py [--stage 12] [--quick]

JAX runs a `vmap` over draws of a compiled `scan` over characters, with all draws at once or as many
as we take. Both work in double precision on one core; that they give the next character the same
log probabilities to 1e-9 is checked first. The promise is 20 seconds.
"""

import argparse

import one_core  # noqa: F401 - first: it sets threads

# isort: split
import numpy as np
from measure import TOLERANCE, Peer, machine, processor_seconds, spread
from posed import Size, posed
from scipy.special import log_softmax

from gptbayes.model.forward import last_logits
from gptbayes.model.simulate import TEXTS_PER_CHUNK, generate_text, prior_draws

SIZE = Size(V=30, C=16, H=2, L=2, T=8)
OURS = "ours, numpy"


def main():
    asked = _arguments()
    problem = posed(asked.stage, SIZE)
    draws = prior_draws(problem, asked.draws, np.random.default_rng(3))
    print(f"{asked.length} characters by each of {asked.draws} draws of stage {asked.stage}")
    print(f"{machine()}\n{SIZE}: {problem.stage.n_parameters(problem.design):,} parameters\n")
    peers = [_ours(problem, draws, asked.length), *_in_jax(problem, draws, asked.length)]
    times = {peer.name: np.empty(asked.turns) for peer in peers}
    for turn in range(asked.turns):  # not `by_turns`, which repeats what is short: this is long
        for peer in peers:
            times[peer.name][turn] = peer.seconds(1)
    print(f"  {'':<28}{'seconds':<26}times ours")
    for name, values in times.items():
        print(f"  {name:<28}{spread(values):<26}{spread(values / times[OURS])}")


def _ours(problem, draws, length):
    def write():
        rng = np.random.default_rng(4)
        generate_text(problem.stage, draws, problem.training.x[0], length, SIZE.T, rng)

    return Peer(OURS, None, lambda _: processor_seconds(write))


def _in_jax(problem, draws, length):
    try:
        import jax
        import jax.numpy as jnp
        import jax_gpt
    except ImportError as error:
        print(f"skipped: jax, {error}")
        return []
    number, masks = int(problem.stage.number[:2]), problem.stage.masks
    masks = masks and [jnp.asarray(mask) for mask in masks]
    stan = jax.device_put(problem.stage.to_stan(draws, problem.design))
    prompt = jnp.asarray(problem.training.x[0])

    def logits(parameters, context):
        return jax_gpt.gpt(number, parameters, masks, context)[-1]

    def write(parameters, key):  # by one draw
        def step(context, key):
            token = jax.random.categorical(key, logits(parameters, context))
            return jnp.append(context[1:], token), token

        return jax.lax.scan(step, prompt, jax.random.split(key, length))[1]

    n_draws = len(draws["token_embedding"])
    contexts = np.random.default_rng(5).integers(SIZE.V, size=(n_draws, SIZE.T))
    theirs = jax.jit(jax.vmap(lambda *one: jax.nn.log_softmax(logits(*one))))(stan, contexts)
    ours = log_softmax(last_logits(problem.stage, draws, contexts[:, None])[:, 0], axis=-1)
    _check(np.asarray(theirs), ours)

    def peer(name, at_once):
        chunks = [
            (
                jax.tree.map(lambda value, s=start: value[s : s + at_once], stan),
                jax.random.split(jax.random.key(start), min(at_once, n_draws - start)),
            )
            for start in range(0, n_draws, at_once)
        ]
        function = jax.jit(jax.vmap(write))
        for chunk in (chunks[0], chunks[-1]):
            jax.block_until_ready(function(*chunk))  # compiles

        def all_chunks():
            for chunk in chunks:
                jax.block_until_ready(function(*chunk))

        return Peer(name, None, lambda _: processor_seconds(all_chunks))

    return [
        peer("JAX, all draws at once", n_draws),
        peer(f"JAX, {TEXTS_PER_CHUNK} draws at once", min(TEXTS_PER_CHUNK, n_draws)),
    ]


def _check(theirs, ours):
    if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=TOLERANCE, atol=1e-12):
        raise SystemExit("void: JAX has other log probabilities than we, nothing can be compared")


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", default="12", help="of the ladder (default %(default)s)")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--length", type=int, help="in characters")
    parser.add_argument("--quick", action="store_true", help="fewer draws, characters and turns")
    parser.add_argument("--turns", type=int)
    asked = parser.parse_args()
    usual = {"draws": (4000, 1000), "length": (200, 50), "turns": (3, 2)}
    for name, values in usual.items():
        setattr(asked, name, getattr(asked, name) or values[asked.quick])
    return asked


if __name__ == "__main__":
    main()
