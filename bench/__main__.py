"""`python -m bench COMMAND`: run from the checkout."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from sar2optical.errors import Sar2OpticalError

COMMANDS = (
    "compare", "engines", "guard", "peers", "picture", "report", "scene", "seams", "training",
)  # fmt: skip
"""Modules of this package, each with a command `main`."""


class _Benches(click.Group):
    """Benches, whose users' errors are one line; each loads what it needs when it is asked for, and no other's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"bench.{cmd_name}").main
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run one."""
        try:
            return super().invoke(ctx)
        except Sar2OpticalError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Benches)
def main() -> None:
    """Benches of sar2optical: ratios taken in one interleaved run, on this machine."""


if __name__ == "__main__":
    main()
