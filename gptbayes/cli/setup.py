"""`gptbayes setup`."""

from __future__ import annotations

from gptbayes import toolchain
from gptbayes.cli.terminal import OUT, describe
from gptbayes.model import kernel_sources


def add_arguments(parser) -> None:
    add = describe(
        parser,
        _setup,
        description="Make sure that there is a CmdStan, and print which. Compile the C++ kernels "
        "of the likelihood for all instructions of this machine, unless GPTBAYES_NATIVE is 0.",
        examples="gptbayes setup --check",
    )
    add("--check", action="store_true", help="compile and sample a small model")


def _setup(arguments):
    toolchain.ensure_cmdstan()
    for name, value in toolchain.describe()._asdict().items():
        if value:
            OUT.print(f"{name:<9} {value}", soft_wrap=True)
    OUT.print(f"{'kernels':<9} {_kernels()}", soft_wrap=True)
    if arguments.check:
        check = toolchain.check()
        OUT.print(
            f"check     a normal distribution, compiled and sampled in {check.seconds:.1f} s: mean "
            f"{check.mean:.3f} (exactly 0), sd {check.sd:.3f} (exactly 1)",
            soft_wrap=True,
        )


def _kernels():
    try:
        kernel_sources.build()
    except toolchain.ToolchainError as error:
        return f"none, fits use plain Stan: {error}"
    flags = " ".join(toolchain.machine_flags())
    if flags:
        return f"compiled with {flags}; set GPTBAYES_NATIVE=0 for code that runs on any machine"
    return "compiled for any machine of this kind"
