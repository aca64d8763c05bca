"""What goes wrong with compilers, downloads and builds."""

from __future__ import annotations


class ToolchainError(RuntimeError):
    """CmdStan or a Stan program could not be found, downloaded, built or compiled."""
