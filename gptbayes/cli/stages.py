"""`gptbayes stages`."""

from __future__ import annotations

from rich.table import Table

from gptbayes.cli.terminal import OUT, describe
from gptbayes.model.stages import STAGES, VARIANTS


def add_arguments(parser) -> None:
    describe(
        parser,
        _stages,
        description="The twelve stages and the variants beside them, with their parameters.",
        examples="gptbayes stages",
    )


def _stages(_arguments):
    table = Table("stage", "title", "parameters", box=None, padding=(0, 2, 0, 0))
    for stage in STAGES.values():
        table.add_row(*_row(stage))
    table.add_section()
    table.add_row("variants", end_section=True)
    for stage in VARIANTS.values():
        table.add_row(*_row(stage))
    OUT.print(table)


def _row(stage):
    return stage.number, stage.title, ", ".join(parameter.name for parameter in stage.parameters)
