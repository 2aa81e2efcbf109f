"""Command line of the benches: `python -m bench COMMAND`, from the checkout."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from sar2optical.errors import Sar2OpticalError

COMMANDS = {
    "compare": "compare.main", "engines": "engines.main", "gpu-check": "gpu_check.main", "guard": "compare.guard",
    "outlook": "outlook.main", "peers": "peers.main", "picture": "picture.main", "report": "report.main",
    "scene": "scene.main", "seams": "seams.main", "training": "training.main",
}  # fmt: skip
"""Module and function of each command."""


class _Benches(click.Group):
    """Group of commands that imports a command's module only when needed, and prints our errors on one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name].split(".")
        command: click.Command = getattr(import_module(f"bench.{module}"), function)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except Sar2OpticalError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Benches)
def main() -> None:
    """Benches of sar2optical: measure ratios of candidates that take turns on this machine."""


if __name__ == "__main__":
    main()
