"""Sources that are generated from the table of stages, so that Stan, C++ and Python agree.

The Stan programs compute the log likelihood as ``token_log_likelihood(y, gpt_logits(x, ...))``.
With the C++ kernels, the same program calls ``gpt_log_likelihood(y, x, ...)`` instead, and each
normal prior is one statement, ``key ~ independent_normal(0, attention_scale)``, without loops over
arrays. These functions are declared in Stan and defined in ``stan/kernels``.
"""

from __future__ import annotations

import re

from gptbayes.model.stages import STAGES, Stage, stan_folder
from gptbayes.toolchain import Kernels, build_kernels

_SIZES = {  # what the C++ sources call the sizes of dims
    "token": "V",
    "position": "block_size",
    "embed": "C",
    "layer": "L",
    "head": "H",
    "head_dim": "h",
    "hidden": "F",
}


def build(flags: tuple[str, ...] | None = None) -> Kernels:
    """Compile the package's kernels for all stages, unless they are in the cache.

    Parameters
    ----------
    flags : tuple of str, optional
        For the machine, see `gptbayes.toolchain.build_kernels`.

    Returns
    -------
    gptbayes.toolchain.Kernels
        ``headers`` also has the sources of `generated`.

    Raises
    ------
    ToolchainError
        If they cannot be compiled.
    """
    return build_kernels(stan_folder() / "kernels", flags, generated())


def generated() -> dict[str, str]:
    """Text of every generated source by file name.

    ``arguments.inc`` lists the arguments for C++. Each stage has a header, such as ``05.hpp``, and
    declarations of `gpt_log_likelihood` and `independent_normal` for Stan, such as
    ``05.stanfunctions``.

    Returns
    -------
    dict of str to str
    """
    sources = {"arguments.inc": _argument_list()}
    for number, stage in STAGES.items():
        sources[f"{number}.stanfunctions"] = declaration(stage) + _prior_declarations(stage)
        sources[f"{number}.hpp"] = (
            f"#define GPTBAYES_STAGE {int(number)}\n"
            '#include "gpt_log_likelihood.hpp"\n#include "independent_normal.hpp"\n'
        )
    return sources


def declaration(stage: Stage) -> str:
    """The declaration of ``gpt_log_likelihood`` of a stage in Stan.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    str
    """
    types = ["array[,] int y", "array[,] int x"]
    types += [f"{argument.stan_type} {argument.name}" for argument in stage.arguments]
    start = "matrix gpt_log_likelihood("
    return start + f",\n{' ' * len(start)}".join(types) + ");\n"


def program_with_kernels(stage: Stage) -> str:
    """The text of the program of a stage, with the likelihood and normal priors of the kernels.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the program does not compute its likelihood from the arguments of the table, or has
        anything but normal priors of all elements before the likelihood.
    """
    text = stage.program.read_text(encoding="utf-8")
    names = ", ".join(argument.name for argument in stage.arguments)
    include = "#include token_log_likelihood.stanfunctions"
    start, end = "token_log_likelihood(y, gpt_logits(", f"x, {names})"
    arguments = f"{_code(start)}(\\s*{_code(end)})\\s*\\)"
    text, included = re.subn(_code(include), f"#include {stage.number[:2]}.stanfunctions", text)
    text, called = re.subn(arguments, r"gpt_log_likelihood(y,\1", text)
    for code, count in ((include, included), (f"{start}{end})", called)):
        if count != 1:
            raise ValueError(f"{stage.program} must have once, got {count} times: {code}")
    if any(parameter.prior != "normal" for parameter in stage.parameters):
        return text
    return _MODEL.sub(lambda found: _with_whole_priors(found, stage), text)


_MODEL = re.compile(r"(?<=\nmodel \{\n)(.*?)(?=\n\s*target \+= likelihood_weight)", re.DOTALL)
_PRIOR = re.compile(r"(?:to_vector\()?(\w+)(?:\[[\w, ]+\])?\)? ~ normal\((\d), (\w+)\);")
_LOOP = re.compile(r"for \(\w+ in 1:\w+\)|[{}\s]")


def _with_whole_priors(found: re.Match[str], stage: Stage) -> str:
    """The priors of a model block without loops over arrays."""
    priors = _PRIOR.findall(found[0])
    rest = _LOOP.sub("", _PRIOR.sub("", found[0]))
    names = [parameter.name for parameter in stage.parameters]
    if rest or [name for name, *_ in priors] != names:
        raise ValueError(f"{stage.program} must have normal priors of all parameters, in order")
    return "\n".join(
        f"  {name} ~ independent_normal({mean}, {scale});" for name, mean, scale in priors
    )


def _prior_declarations(stage: Stage) -> str:
    types = sorted({a.stan_type for a in stage.arguments if a.kind == "parameter"})
    return "".join(
        f"real independent_normal_lpdf({each} x, real mean, real sd);\n" for each in types
    )


def _code(text: str) -> str:
    """A regular expression for code with any white space."""
    return r"\s*".join(map(re.escape, re.findall(r"\w+|\S", text)))


def _argument_list() -> str:
    """A call of the macro ``GPTBAYES_ARGUMENT`` for each argument of the last stage.

    Earlier stages have some of them, in the same order.
    """
    *_, last = STAGES.values()
    lines = ["// GPTBAYES_ARGUMENT(first stage, name, has a gradient, items, rows, columns)"]
    for argument in last.arguments:
        first = next(n for n, s in STAGES.items() if argument.name in [a.name for a in s.arguments])
        items = " * ".join(_SIZES[dim] for dim in argument.array_dims) or "1"
        matrix = [_SIZES[dim] for dim in argument.stan_dims[len(argument.array_dims) :]]
        rows, columns = (*matrix, "1")[:2]
        shape = f"{items}, {rows}, {columns}"
        has_gradient = int(argument.kind == "parameter")
        lines.append(f"GPTBAYES_ARGUMENT({int(first)}, {argument.name}, {has_gradient}, {shape})")
    return "\n".join(lines) + "\n"
